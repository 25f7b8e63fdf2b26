"""Parameters over HTTP, for two operators at once: the ETag, who was too late, and what the code takes."""

PATH = "/api/v1/stages/alpha/params"


def test_the_second_operator_sees_what_the_first_has_done(service):
    """With If-Match a change is made to what was seen, or not at all: 412 tells what there is now."""
    seen = service.ask("GET", PATH)
    assert (seen.json["generation"], seen.headers["etag"]) == (1, '"1"')
    first = service.ask("PATCH", PATH, {"particles": 20}, If_Match='"1"')
    assert (first.status, first.headers["etag"]) == (202, '"2"')
    late = service.ask("PATCH", PATH, {"particles": 30}, If_Match=seen.headers["etag"])
    assert (late.status, late.json["kind"]) == (412, "conflict")
    assert late.json["current"] == {"params": {"particles": 20}, "generation": 2}
    assert service.ask("PATCH", PATH, {"particles": 30}, If_Match='"1", "2"').headers["etag"] == '"3"'
    assert service.ask("PATCH", PATH, {"particles": 40}, If_Match="*").headers["etag"] == '"4"'
    assert service.ask("PATCH", PATH, {"particles": 50}, If_Match='W/"3"').status == 412
    assert service.ask("PATCH", PATH, {"particles": 50}, If_Match='W/"4"').headers["etag"] == '"5"', "a proxy's tag"
    back = service.ask("POST", f"{PATH}/rollback", If_Match='"5"')
    assert (back.status, back.json["params"], back.headers["etag"]) == (202, {"particles": 40}, '"6"')
    for nonsense in ("5", '"x"', "W/", '""'):
        assert service.ask("PATCH", PATH, {"particles": 60}, If_Match=nonsense).status == 412


def test_a_late_change_of_the_chain_is_told_the_chain(service):
    """So does a change of the chain."""
    path = "/api/v1/stages/alpha/jobs"
    service.ask("POST", path, {"job": "m:g"})
    late = service.ask("PUT", path, {"jobs": [{"job": "m:h"}]}, If_Match='"1"')
    assert (late.status, late.json["current"]["jobs"], late.json["current"]["generation"]) == (412, ["m:f", "m:g"], 2)


def test_what_the_code_takes(service):
    """The schema comes with the values in use and their generation; null where the code does not say."""
    answer = service.ask("GET", f"{PATH}/schema")
    assert answer.json == {"schema": None, "defaults": {"particles": 10}, "generation": 1}
    assert service.ask("GET", "/api/v1/stages/none/params/schema").status == 404
