"""Looking at dead letters in the page leaves a quorum queue as it was."""

import re

import pytest

from tests.page.test_service import live
from tests.support.foreign import Client
from tests.support.service import ServiceProcess
from tests.system.stage import config, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq, pytest.mark.xdist_group("page")]

LARGE = 2**63 - 1
LOOKS = 2  # the list takes one; opening letters may take another, not one each


@pytest.mark.parametrize(("many", "opened"), [(300, 5), pytest.param(10_000, 50, marks=pytest.mark.release)])
def test_looking_changes_nothing(rabbit, browser, watched, many, opened):
    """All letters are looked through and some opened: number and order are as before, the delivery count of each has
    grown by no more than there were looks, and 64-bit integers of body and headers are shown exactly."""
    queue = f"looked-at-{many}"
    settings = config(rabbit.url(), queue, "retry = { max_attempts = 1 }")
    with (
        ServiceProcess(settings, {"jobs.py": "def handle(body):\n    return body\n"}) as service,
        Client(rabbit.url()) as client,
    ):
        service.start()
        reason = {"x-mqworker-reason": "error", "large": LARGE}
        for n in range(many):
            body = f'{{"n": {n}, "large": {LARGE}}}'.encode()
            client.publish(f"{queue}.dlq", body, message_id=f"m{n}", content_type="application/json", headers=reason)
        url = re.search(r"http://[\d.:]+", service.event("started")["url"])[0] + "/ui/"
        page = watched.open(f"{url}#/failures/{'work'}")
        live(page)
        page.get_by_text(f"{many:,} of {many:,} match").wait_for()
        links = page.locator("tbody a[href^='#/letter']")
        assert links.all_inner_texts() == [f"m{n}" for n in range(100)]
        for href in [link.get_attribute("href") for link in links.all()[:opened]]:
            page.goto(url + href)
            page.get_by_label("Body as json").get_by_text(f'"large": {LARGE}').wait_for()
            assert page.get_by_label("Headers").get_by_text(str(LARGE), exact=True).count() == 1
        settled(rabbit, f"{queue}.dlq", many)
        left = client.take(f"{queue}.dlq", many, 120)
    assert [each.properties.message_id for each in left] == [f"m{n}" for n in range(many)]
    assert max(each.headers.get("x-delivery-count", 0) for each in left) <= LOOKS
