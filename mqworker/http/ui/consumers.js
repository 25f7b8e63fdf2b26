// The Consumers of a stage.
