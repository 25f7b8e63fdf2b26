"""RabbitMQ by AMQP 0-9-1: the only place that imports pika.

    fast_frames, loop_adapter, answer_clock, amqp_connection   one connection, on an asyncio loop
    channel                                      awaitable requests
    reconnector                                  a connection that is kept
    queues, exchanges, topology                  what must exist, what others made of it, and the whole of a stage
    upkeep, anchor                               what keeps queues from being deleted
    arrivals, consumer_channel, epoch, standby, consuming   the consuming role of a Link: one epoch, when it may begin,
                                                 and one after the other
    ordered_channel, sole_consumer               the same for an ordered stage, which consumes alone
    result_route, destinations, sender, publishing   its publishing role: where to, one channel, and one after the other
    parts                                        several results of an ordered stage, one after the other
    topology_recovery, link                      the Link, and what makes again what it needs
    exclusive_lock                               what one connection has to itself
    queue_depth                                  how much a queue holds
    confirmed_prefix, outlet                     the Outlet of a source
    shared_connection, placer, taker, admin      the Admin

Everything runs on the asyncio loop of the process that owns it.
"""
