"""The console's pages in Chromium, before a `serve`: what people see, what scripts do, and that none but ours runs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from plugins.ion_console.tests.browsers import chromium, picture, visiting
from plugins.ion_console.tests.consoles import LOOK, MEND, TOKENS, Served, serving

pytestmark = pytest.mark.timeout(300)

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f0005fe02fe"
    "a735a9c40000000049454e44ae426082"
)
ALERTS = "<script>ran('script')</script><img src=x onerror=ran('img')><img src=http://evil.example/x.png>"
ENDED = 'ion_attempts_finished_total{{module="shrink",outcome="{}",type="photo.received"}} 1.0'
NAME = "<img src=x onerror=ran(1)>\u202e';--"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def pipeline(directory: Path, modules: dict[str, Any], **console: Any) -> None:
    """With the modules' source beside it. JSON is YAML."""
    who = {} if "tokens" in console else {"auth": "none"}
    told = {
        "modules": {name: {"source": ".", "retries": 0, **it} for name, it in modules.items()},
        "services": {"console": {"listen": "127.0.0.1:0", **who, **console}},
        "drain_timeout": "1s",
    }
    (directory / "ion.yaml").write_text(json.dumps(told))


def takes(type: str, script: str, **more: Any) -> dict[str, Any]:
    return {"command": ["sh", "-c", script], "subscribes": [type], **more}


class Published(NamedTuple):
    event: str
    flow: str


def published(served: Served, type: str, *arguments: str) -> Published:
    context = json.loads(served.ion("event", "publish", type, "--json", *arguments))["context"]
    return Published(context["eventId"], context["correlationId"])


def test_whoever_is_woken_sees_what_happened_and_why_and_puts_it_right(browser: Browser, tmp_path: Path) -> None:
    """A module breaks; health, metrics, page and `ion-core why` tell; it is mended; redriven in the page; done."""
    script = tmp_path / "shrink.sh"
    script.write_text("echo 'no colour called blau' >&2; exit 3\n")
    pipeline(tmp_path, {"shrink": {"command": ["sh", "shrink.sh"], "subscribes": ["photo.received"]}})
    (tmp_path / "cat.png").write_bytes(PNG)
    with serving(tmp_path) as served, visiting(browser, served.url) as (context, seen):
        page = context.new_page()
        page.goto("/")
        expect(page.get_by_text("No event has come yet.")).to_be_visible()
        event, _ = published(served, "photo.received", "--file", "cat.png", "--data", "album=summer")
        row = page.locator("#flows li")
        expect(row).to_contain_text("cat.png · album=summer")
        expect(row.get_by_role("img", name="dead letters")).to_be_visible()
        expect(page.get_by_role("link", name="Dead letters 1")).to_be_visible()
        picture(page, "1-it-failed")

        assert served.get("/readyz") == {"ready": True, "draining": False, "problems": []}, "the process is well"
        _, metrics = served.curl("/metrics")
        assert 'ion_dead_letters{queue="shrink"} 1.0' in metrics
        assert (
            'ion_attempts_finished_total{module="shrink",outcome="dead-lettered",type="photo.received"} 1.0' in metrics
        )

        page.get_by_role("link", name="Dead letters 1").click()
        expect(page.get_by_role("heading", name="1 dead letter")).to_be_visible()
        page.get_by_text("the end of its log").click()
        expect(page.get_by_text("no colour called blau")).to_be_visible()
        picture(page, "2-the-dead-letter")

        page.get_by_role("link", name="photo.received").click()
        page.get_by_role("link", name="Why").click()
        detail = page.locator("#detail")
        expect(detail).to_contain_text("module-failed")
        expect(detail).to_contain_text("exit code 3")
        picture(page, "3-why")
        why = served.ion("why", event)
        assert "module-failed" in why
        assert "exit code 3" in why
        for command in detail.locator("li code").all_inner_texts():
            assert command in why

        script.write_text("echo 'blau is blue'\n")
        page.get_by_role("button", name="Redrive 1").click()
        expect(page.get_by_role("heading", name="Redrive 1 dead letter?")).to_be_visible()
        page.get_by_role("button", name="Redrive 1").click()
        expect(page.get_by_role("status").first).to_have_text("1 dead letter put back into the queue.")
        expect(page.locator("#head")).to_contain_text("done")
        expect(page.locator("#flows").get_by_role("img", name="done")).to_be_visible()
        expect(page.get_by_role("link", name="Dead letters", exact=True)).to_be_visible()
        expect(page.get_by_text("blau is blue")).to_be_visible()
        picture(page, "4-done")
        _, metrics = served.curl("/metrics")
        assert 'ion_dead_letters{queue="shrink"} 0.0' in metrics
        assert ENDED.format("committed") in metrics
        seen.nothing()


# What others wrote

EVIL = """
cd "$HANDLER_BASE_DIR/out/data"
cp "$SOURCE"/hostile/* .
printf '[{"key": "eventType", "value": "photo.seen"}, {"key": "%s", "value": "%s"}]' "$TEXT" "$TEXT" > ../events/0.json
printf '[{"key": "%s", "value": "%s"}]' "$TEXT" "$TEXT" > ../insights.json
printf '%s\\n\\033[31m\\r%s\\n' "$TEXT" "$TEXT"
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A flow in which all is hostile that others can write, and its id."""
    directory = tmp_path_factory.mktemp("hostile")
    files = directory / "hostile"
    files.mkdir()
    page = f"<!doctype html><html xmlns='http://www.w3.org/1999/xhtml'>{ALERTS}</html>".encode()
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg' onload=\"ran('svg')\"><script>ran('in svg')</script></svg>"
    contents = {
        "page.html": page,
        "page.xhtml": page,
        "drawing.svg": drawing,
        "no.png": drawing,
        "no.jpg": page,
        "seen.png": PNG,
        "page.txt": page,
        "log.txt": ALERTS.encode(),
        "rows.csv": f'a,"{ALERTS}"\n=cmd,"{ALERTS}"\n'.encode(),
        "told.json": json.dumps({ALERTS: [ALERTS, "\ud800"]}).encode(),
        "bytes": bytes(range(256)),
        "empty": b"",
        f"{NAME}.txt": b"text",
        f"{NAME}.png": PNG,
    }
    for name, content in contents.items():
        (files / name).write_bytes(content)
    around = {"env": {"TEXT": ALERTS, "SOURCE": str(directory)}}
    pipeline(
        directory,
        {
            "evil": takes("photo.received", EVIL, publishes=["photo.seen"], **around),
            "dies": takes("photo.seen", 'echo "$TEXT"; exit 3', **around),
        },
    )
    with serving(directory) as served:
        given = ["--data", f"{ALERTS}={ALERTS}", "--file", f"hostile/{NAME}.png", "--file", "hostile/drawing.svg"]
        flow = published(served, "photo.received", *given).flow
        served.until(lambda: served.get("/api/dead-letters")["items"])
        yield served, flow


def links(page: Page) -> list[str]:
    """Where it leads within the console, without what is downloaded."""
    found = page.eval_on_selector_all(
        "a[href]", "all => all.map(it => [it.getAttribute('href'), it.hasAttribute('download')])"
    )
    places = [urljoin(page.url, place) for place, downloaded in found if not downloaded]
    ours = [place.partition("#")[0] for place in places if urlsplit(place).netloc == urlsplit(page.url).netloc]
    return [place for place in ours if not re.search("[?&](state|since)=", place)]  # filters go with all the others


def test_what_others_wrote_runs_nowhere_and_asks_nothing_of_others(
    browser: Browser, hostile: tuple[Served, str]
) -> None:
    """On every page that can be come to from the flow by links."""
    served, flow = hostile
    with visiting(browser, served.url) as (context, seen):
        page = context.new_page()
        waiting, known, said = [f"{served.url}/flows/{flow}"], set[str](), ""
        while waiting:
            place = waiting.pop()
            answer = page.goto(place)
            assert answer is not None
            assert answer.ok, place
            page.wait_for_load_state("load")
            known.add(place)
            said += page.locator("body").inner_text()
            waiting += [it for it in dict.fromkeys(links(page)) if it not in known and it not in waiting]
            assert len(known) < 150
        assert len(known) > 25
        assert page.evaluate("typeof ran") == "function", "what is hostile would be seen to run"
        for told in (
            f"{ALERTS}={ALERTS}",
            "=cmd",
            NAME,
            '"\\ud800"',
            "It is empty.",
            "It is none of what is shown here",
        ):
            assert told in said
        seen.nothing()


def test_markup_is_downloaded_only_and_pictures_are_what_their_bytes_say(
    browser: Browser, hostile: tuple[Served, str]
) -> None:
    served, flow = hostile
    files = {it["name"]: it["key"] for it in served.get(f"/api/flows/{flow}/files") if not it["cameIn"]}
    with visiting(browser, served.url) as (context, seen):
        page = context.new_page()
        for name in ("page.html", "page.xhtml", "drawing.svg", "no.png", "no.jpg", "page.txt"):
            page.goto(f"/flows/{flow}/file?{urlencode({'key': files[name]})}")
            expect(page.get_by_role("heading", name=name)).to_be_visible()
            expect(page.get_by_text("It is none of what is shown here")).to_be_visible()
            assert page.locator("main :is(img, svg, iframe, object, embed)").count() == 0
            with page.expect_download() as download:
                page.get_by_role("link", name="Download").click()
            assert download.value.suggested_filename == name
            answer = context.request.get(f"/flows/{flow}/picture", params={"key": files[name]})
            assert answer.status == 415
        answer = context.request.get(f"/flows/{flow}/picture", params={"key": files["seen.png"]})
        assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
        assert "sandbox" in answer.headers["content-security-policy"]
        seen.nothing()


# Live


def marked(page: Page) -> None:
    page.evaluate("window.untouched = true")


def is_untouched(page: Page) -> bool:
    """Whether it has not been loaded anew since it was marked."""
    return bool(page.evaluate("window.untouched === true"))


def test_a_page_follows_a_flow_and_the_log_of_what_runs(browser: Browser, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    script = f'echo begun; while read -r line && [ "$line" != end ]; do echo "$line"; done < {tmp_path}/go; echo over'
    pipeline(tmp_path, {"slow": takes("photo.received", script), "quick": takes("photo.received", "echo quickly")})
    with serving(tmp_path) as served, visiting(browser, served.url) as (context, seen):
        page = context.new_page()
        event, flow = published(served, "photo.received")
        served.until(lambda: served.get("/api/running"))
        page.goto(f"/flows/{flow}?event={event}&of=slow")
        marked(page)
        expect(page.locator("#detail")).to_contain_text("running since")
        page.get_by_role("link", name="Log").click()
        marked(page)
        log = page.get_by_role("log")
        expect(log).to_contain_text("begun")
        with (tmp_path / "go").open("w") as go:
            for number in range(3):
                go.write(f"line {number} <b>\n")
                go.flush()
                expect(log).to_contain_text(f"line {number} <b>")
            published(served, "photo.received")  # the page looks anew, and what it follows stays
            expect(page.locator("#flows li")).to_have_count(2)
            go.write("line 3\n")
            go.flush()
            expect(log).to_have_text(re.compile(r"^begun\nline 0 <b>\nline 1 <b>\nline 2 <b>\nline 3\n$"))
            go.write("end\n")
        expect(page.locator("#detail")).to_contain_text("over")
        expect(page.get_by_role("heading", name="Attempt 1 · committed")).to_be_visible()
        expect(page.locator("#head")).to_contain_text("done")
        assert is_untouched(page)
        with (tmp_path / "go").open("w") as go:
            go.write("end\n")
        seen.nothing()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_page_left_open_over_a_restart_comes_back_by_itself_and_is_right(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    pipeline(tmp_path, {"quick": takes("photo.received", "echo quickly")}, listen=f"127.0.0.1:{port}")
    with visiting(browser, f"http://127.0.0.1:{port}") as (context, seen):
        with serving(tmp_path) as served:
            page = context.new_page()
            page.goto("/flows")
            published(served, "photo.received")
            expect(page.get_by_role("img", name="done")).to_have_count(1)
            marked(page)
            lost = page.get_by_text("connection lost, trying again")
            expect(lost).to_be_hidden()
            page.route("**/flows", lambda route: route.fulfill(status=503))
            published(served, "photo.received")
            served.until(lambda: len(served.get("/api/flows?outcome=done")["items"]) == 2)
            for _ in range(3):  # it asks again, though nothing happens any more
                page.wait_for_event("response", lambda answer: answer.status == 503)
            expect(lost).to_be_visible()
            page.unroute("**/flows")
            expect(page.get_by_role("img", name="done")).to_have_count(2)
            expect(lost).to_be_hidden()
        expect(lost).to_be_visible()
        served.ion("event", "publish", "photo.received")
        with serving(tmp_path):
            expect(page.get_by_role("img", name="done")).to_have_count(3)
            expect(lost).to_be_hidden()
            assert is_untouched(page)
        seen.nothing()


def test_focus_scrolling_and_what_was_opened_stay_when_a_page_is_brought_up_to_date(
    browser: Browser, tmp_path: Path
) -> None:
    pipeline(tmp_path, {"dies": takes("photo.received", "echo why; exit 3")})
    with serving(tmp_path) as served, visiting(browser, served.url, viewport={"width": 900, "height": 300}) as it:
        context, seen = it
        for number in range(4):
            published(served, "photo.received", "--data", f"number={number}")
        page = context.new_page()
        page.goto("/dead-letters")
        expect(page.locator("#letters tbody tr")).to_have_count(4)
        marked(page)
        last = page.locator("#letters tbody tr").last
        last.locator("summary").click()
        place = last.get_by_role("link")
        place.focus()
        at = page.evaluate("scrollY")
        assert at > 0
        published(served, "photo.received", "--data", "number=4")
        expect(page.locator("#letters tbody tr")).to_have_count(5)
        expect(page.get_by_role("heading", name="5 dead letters")).to_be_visible()
        expect(place).to_be_focused()
        expect(last.get_by_text("why", exact=True)).to_be_visible()
        assert page.evaluate("scrollY") >= at
        page.locator("#find").fill("half a wo")
        published(served, "photo.received", "--data", "number=5")
        expect(page.locator("#letters tbody tr")).to_have_count(6)
        expect(page.locator("#find")).to_have_value("half a wo")
        expect(page.locator("#find")).to_be_focused()
        assert is_untouched(page)
        seen.nothing()


# Who may


def guarded(directory: Path) -> None:
    (directory / "look").write_text(LOOK)
    (directory / "mend").write_text(MEND)
    tokens = {"look": "${file:look}", "mend": "${file:mend}"}
    pipeline(directory, {"dies": takes("photo.received", "exit 3")}, tokens=tokens)


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("A token").fill(token)
    page.get_by_role("button", name="Sign in").click()


POSTS = """async verb => {
  const body = new URLSearchParams({ all: "yes", sure: "yes", typed: "1" });
  return (await fetch("/dead-letters/" + verb, { method: "POST", body })).status;
}"""


def test_a_session_begins_with_a_token_and_ends_with_it(browser: Browser, tmp_path: Path) -> None:
    guarded(tmp_path)
    said: list[str] = []
    with serving(tmp_path) as served, visiting(browser, served.url) as (context, seen):
        served.token = LOOK
        context.on("request", lambda it: said.append(it.url))
        page = context.new_page()
        flow = published(served, "photo.received").flow
        answer = page.goto(f"/flows/{flow}?tab=why")
        assert answer is not None
        assert answer.status == 401
        assert page.locator("nav").count() == 0
        assert flow not in page.locator("main").inner_text()
        sign_in(page, "wrong-canary-0123456789")
        expect(page.get_by_role("alert")).to_have_text("This token is not known here.")
        sign_in(page, LOOK)
        expect(page).to_have_url(f"{served.url}/flows/{flow}?tab=why")
        expect(page.locator("#detail")).to_contain_text("module-failed")

        expect(page.get_by_role("button", name=re.compile("Redrive|Purge"))).to_have_count(0)
        page.goto("/dead-letters")
        expect(page.get_by_role("heading", name="1 dead letter")).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("Redrive|Purge"))).to_have_count(0)
        for verb in ("redrive", "purge"):
            assert page.evaluate(POSTS, verb) == 403
        said.append(page.content())

        page.get_by_text("ready", exact=True).click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert page.goto("/flows").status == 401  # type: ignore[union-attr]
        sign_in(page, MEND)
        page.goto("/dead-letters")
        expect(page.get_by_role("button", name="Redrive 1").first).to_be_visible()
        [cookie] = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
        said += [page.content(), cookie["value"]]

        (tmp_path / "mend").write_text("another-canary-0123456789")
        served.process.send_signal(signal.SIGHUP)
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible(timeout=60_000)
        said += [page.content(), (tmp_path / "serve.log").read_text()]
        assert [it for it in said if "canary" in it] == []
        seen.nothing()


@pytest.mark.parametrize("console", [{}, {"exposed": True}, TOKENS], ids=["alone", "exposed", "tokens"])
def test_pages_of_others_change_nothing(browser: Browser, tmp_path: Path, console: dict[str, Any]) -> None:
    pipeline(tmp_path, {"dies": takes("photo.received", "exit 3")}, **console)
    with serving(tmp_path) as served, visiting(browser, served.url) as (context, _):
        served.token = LOOK if console is TOKENS else ""
        published(served, "photo.received")
        served.until(lambda: served.get("/api/dead-letters")["items"])
        page = context.new_page()
        if console is TOKENS:
            page.goto("/sign-in")
            sign_in(page, MEND)
            expect(page.get_by_role("link", name="Dead letters 1")).to_be_visible()
        fields = "<input name=all value=yes><input name=sure value=yes><input name=typed value=1><button>win</button>"
        form = f"<form method=post action={served.url}/dead-letters/purge>{fields}</form>"
        context.route("http://evil.example/", lambda route: route.fulfill(body=form, content_type="text/html"))
        page.goto("http://evil.example/")
        with page.expect_response("**/purge") as answer:
            page.get_by_role("button").click()
        assert answer.value.status in (401, 403)
        assert len(served.get("/api/dead-letters")["items"]) == 1


def test_a_page_that_is_refused_is_not_taken_for_a_lost_connection(browser: Browser, tmp_path: Path) -> None:
    pipeline(tmp_path, {"dies": takes("photo.received", "exit 3")})
    with serving(tmp_path) as served, visiting(browser, served.url) as (context, _):
        published(served, "photo.received")
        served.until(lambda: served.get("/api/dead-letters")["items"])
        page = context.new_page()
        for refused in ("/flows?state=blue", "/none"):
            page.goto(refused)
            page.evaluate("page.refresh()")
            assert not page.locator("#lost").is_visible()
        page.goto("/dead-letters")
        page.get_by_role("button", name="Purge all 1").click()
        expect(page.get_by_role("heading", name="Purge 1 dead letter?")).to_be_visible()
        page.get_by_label("Type 1").fill("1")
        page.reload()  # the browser sends the form again
        expect(page.get_by_role("heading", name="Purge 1 dead letter?")).to_be_visible()
        assert not page.locator("#lost").is_visible()


# Hands and eyes


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Published]]:
    """Some flows, one of which has all kinds of jobs: the first event of that."""
    directory = tmp_path_factory.mktemp("busy")
    (directory / "cat.png").write_bytes(PNG)
    (directory / "faces.csv").write_text("face,x,y\n" + "".join(f"{n},{n * 3},{n * 7}\n" for n in range(30)))
    faces = "".join(
        f'printf \'[{{"key": "eventType", "value": "face.detected"}}, {{"key": "n", "value": "{n}"}}]\' > '
        f'"$HANDLER_BASE_DIR/out/events/{n}.json"; '
        for n in range(3)
    )
    detect = (
        f"{faces} cp faces.csv cat.png $HANDLER_BASE_DIR/out/data; echo '1 photo, 3 faces'; "
        'printf \'[{"key": "faces", "value": "3"}]\' > $HANDLER_BASE_DIR/out/insights.json'
    )
    pipeline(
        directory,
        {
            "detect": takes("photo.received", detect, publishes=["face.detected"]),
            "blur": takes("face.detected", "echo cannot blur; exit 3"),
            "catalogue": takes("face.detected", "echo kept"),
            "count": takes("album.received", "true"),
        },
    )
    with serving(directory) as served:
        for number in range(3):
            published(served, "album.received", "--data", f"number={number}")
        first = published(served, "photo.received", "--file", "cat.png", "--data", "album=summer")
        served.until(lambda: len(served.get("/api/dead-letters")["items"]) == 3)
        served.until(lambda: len(served.get("/api/flows?outcome=done")["items"]) == 3)
        yield served, first


def views(first: Published) -> dict[str, str]:
    event, flow = first
    about = f"/flows/{flow}?event={event}&of=detect"
    tabs = {f"flow-{tab}": f"{about}&tab={tab}" for tab in ("about", "log", "files", "insights", "why")}
    return {
        "flows": "/flows",
        "flow": f"/flows/{flow}",
        **tabs,
        "jobs": f"/flows/{flow}/jobs",
        "modules": "/modules",
        "dead-letters": "/dead-letters",
        "pipeline": "/pipeline",
        "sign-in": "/sign-in",
        "none": "/flows/none",
    }


def test_keys_lead_through_a_page(browser: Browser, busy: tuple[Served, Published]) -> None:
    served, first = busy
    with visiting(browser, served.url) as (context, seen):
        page = context.new_page()
        page.goto("/flows")
        press = page.keyboard.press
        items = page.locator("[data-item]")
        press("j")
        expect(items.nth(0)).to_be_focused()
        press("j")
        press("j")
        press("k")
        expect(items.nth(1)).to_be_focused()
        press("k")
        press("k")
        expect(items.nth(0)).to_be_focused()
        press("Enter")
        expect(page).to_have_url(f"{served.url}/flows/{first.flow}")
        page.wait_for_load_state()
        press("j")
        expect(items.nth(1)).to_be_focused()
        press("f")
        expect(page).to_have_url(f"{served.url}/flows?state=failed")
        page.wait_for_load_state()
        expect(page.locator("#flows li")).to_have_count(1)
        press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        press("f")
        press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        press("/")
        expect(page.locator("#find")).to_be_focused()
        page.keyboard.type("ffj SUMMER"[4:])
        press("Enter")
        expect(page.locator("#flows li")).to_have_count(1)
        expect(page.locator("#find")).to_have_value("SUMMER")
        page.locator("#find").fill("")
        page.locator("#find").press("Enter")
        expect(page.locator("#flows li")).to_have_count(4)
        seen.nothing()


WANTED = """all => all
  .filter(it => it.checkVisibility())
  .map(it => it.outerHTML.replace(/<time.*?<\\/time>/g, ""))"""
FOCUS = """() => {
  const it = document.activeElement;
  if (!it || it === document.body) return null;
  const style = getComputedStyle(it);
  const box = it.getBoundingClientRect();
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  return [it.outerHTML.replace(/<time.*?<\\/time>/g, ""), outlined, box.width > 0 && box.left >= 0];
}"""


def test_all_can_be_come_to_by_tab_and_what_has_the_focus_is_seen(
    browser: Browser, busy: tuple[Served, Published]
) -> None:
    served, first = busy
    with visiting(browser, served.url) as (context, _):
        page = context.new_page()
        for place in (f"/flows/{first.flow}", "/dead-letters", "/modules"):
            page.goto(place)
            wanted = page.locator(":is(a[href], button, summary, input:not([type=hidden]))").evaluate_all(WANTED)
            reached = list[str]()
            page.keyboard.press("Tab")
            assert "Skip to the content" in page.evaluate(FOCUS)[0]
            while (now := page.evaluate(FOCUS)) is not None and len(reached) < 200:
                html, outlined, on_screen = now
                assert outlined, html
                assert on_screen, html
                reached.append(html)
                page.keyboard.press("Tab")
            assert set(wanted) <= set(reached)


def test_pages_have_landmarks_and_names_for_screen_readers(browser: Browser, busy: tuple[Served, Published]) -> None:
    served, first = busy
    with visiting(browser, served.url) as (context, _):
        page = context.new_page()
        for name, place in views(first).items():
            page.goto(place)
            assert page.locator("html").get_attribute("lang") == "en"
            expect(page.get_by_role("main")).to_have_count(1)
            expect(page.get_by_role("banner")).to_have_count(1)
            expect(page.get_by_role("search")).to_have_count(1)
            expect(page.get_by_role("navigation", name="Views")).to_have_count(1)
            assert page.title().endswith(" · Ion"), name
            assert page.locator("main h1").count() == (0 if name == "flows" else 1), name
            for role in ("link", "button", "img", "region", "searchbox", "textbox"):
                nameless = page.get_by_role(role).and_(page.get_by_role(role, name=re.compile(r"^\s*$")))  # type: ignore[arg-type]
                assert nameless.count() == 0, (name, nameless.first.evaluate("it => it.outerHTML"))
            ids = page.eval_on_selector_all("[id]", "all => all.map(it => it.id)")
            assert len(ids) == len(set(ids)), name
        page.goto(f"/flows/{first.flow}")
        told = page.locator("#flow").aria_snapshot()
        assert 'link "job of blur: dead-lettered, dead · exit code 3 · 1 ×' in told
        assert 'region "Graph"' in told


def test_pages_fit_a_phone_and_have_a_dark_scheme(browser: Browser, busy: tuple[Served, Published]) -> None:
    """Their pictures are for people to look at."""
    served, first = busy
    phone: Any = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
    for scheme, how in (("light", phone), ("dark", phone), ("light", {}), ("dark", {})):
        with visiting(browser, served.url, color_scheme=scheme, **how) as (context, seen):
            page = context.new_page()
            for name, place in views(first).items():
                page.goto(place)
                wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                assert wide[0] <= wide[1], name
                background = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, re.findall(r"\d+", background))) < 200) == (scheme == "dark")
                picture(page, f"{name}-{'narrow' if how else 'wide'}-{scheme}", whole=bool(how))
            seen.nothing()


def test_without_scripts_links_and_forms_do_all(browser: Browser, tmp_path: Path) -> None:
    script = tmp_path / "step.sh"
    script.write_text("exit 3")
    pipeline(tmp_path, {"step": {"command": ["sh", "step.sh"], "subscribes": ["photo.received"]}})
    (tmp_path / "cat.png").write_bytes(PNG)
    with serving(tmp_path) as served, visiting(browser, served.url, java_script_enabled=False) as (context, seen):
        for album in ("summer", "winter", "spring"):
            published(served, "photo.received", "--data", f"album={album}", "--file", "cat.png")
        served.until(lambda: len(served.get("/api/dead-letters")["items"]) == 3)
        page = context.new_page()
        page.goto("/")
        page.get_by_role("searchbox").fill("winter")
        page.get_by_role("searchbox").press("Enter")
        expect(page.locator("#flows li")).to_have_count(1)
        page.get_by_role("link", name="photo.received").click()
        for tab, says in (("Log", "Worker logs"), ("Insights", "It left none."), ("Why", "module-failed")):
            page.get_by_role("link", name=tab).click()
            expect(page.locator("#detail")).to_contain_text(says)
        script.write_text("true")
        page.get_by_role("button", name="Redrive 1").click()
        page.get_by_role("button", name="Redrive 1").click()
        expect(page.get_by_text("1 dead letter put back into the queue.")).to_be_visible()
        served.until(lambda: len(served.get("/api/flows?outcome=done")["items"]) == 1)
        page.get_by_role("link", name=re.compile("^Dead letters")).click()
        page.get_by_role("button", name="Purge all 2").click()
        page.get_by_label("Type 2 to delete them").fill("1")
        page.get_by_role("button", name="Purge 2").click()
        expect(page.get_by_role("alert")).to_have_text("Type 2, or go back.")
        assert len(served.get("/api/dead-letters")["items"]) == 2
        page.get_by_label("Type 2 to delete them").fill("2")
        page.get_by_role("button", name="Purge 2").click()
        expect(page.get_by_text("2 dead letters deleted.")).to_be_visible()
        expect(page.get_by_text("There are none.")).to_be_visible()
        seen.nothing()


def test_a_flow_of_a_thousand_events_is_seen(browser: Browser, tmp_path: Path) -> None:
    one = 'printf \'[{"key": "eventType", "value": "face.detected"}]\' > "$HANDLER_BASE_DIR/out/events/$n.json"'
    many = f"n=0; while [ $n -lt 999 ]; do {one}; n=$((n + 1)); done"
    pipeline(tmp_path, {"detect": takes("photo.received", many, publishes=["face.detected"])})
    with serving(tmp_path) as served, visiting(browser, served.url) as (context, seen):
        flow = published(served, "photo.received").flow
        served.until(lambda: served.get("/api/flows?outcome=done")["items"])
        page = context.new_page()
        page.goto(f"/flows/{flow}")
        expect(page.get_by_role("link", name="1,000 events, 1 job")).to_be_visible()
        seen.nothing()


def test_a_report_is_saved_and_is_as_harmless_on_its_own(
    browser: Browser, hostile: tuple[Served, str], tmp_path: Path
) -> None:
    served, flow = hostile
    with visiting(browser, served.url) as (context, seen):
        page = context.new_page()
        page.goto(f"/flows/{flow}")
        with page.expect_download() as download:
            page.get_by_role("link", name="Report").click()
        assert download.value.suggested_filename == f"flow-{flow}.html"
        saved = tmp_path / "flow.html"
        download.value.save_as(saved)
        seen.nothing()
        page.goto(saved.as_uri())
        expect(page.locator("body")).to_contain_text(ALERTS)
        assert seen.elsewhere == [saved.as_uri()]
        assert seen.ran == []
