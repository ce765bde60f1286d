// What pages do beyond links and forms: they keep themselves up to date, follow logs, take keys, copy ids.
"use strict";

const LEAST = 1000; // ms between two looks at the page, at least
const SHARE = 50; // and so many times as long as the last look took: a page that is open costs little
const MOST = 10000; // ms, but no longer than that: what is seen is to be true
const AGAIN = 5000; // ms until a stream that was refused is asked for again

// Lets `old` become as `fresh` is, changing only what differs, so that focus, selection and scrolling stay.
function become(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName || (old.id || "") !== (fresh.id || "")) return old.replaceWith(fresh);
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (following.has(old)) return; // its lines come by a stream of its own
  const ids = new Set([...fresh.children].map((it) => it.id).filter(Boolean));
  for (const child of [...old.children]) if (child.id && !ids.has(child.id)) child.remove(); // so that what stays need not move
  const known = new Map([...old.children].filter((it) => it.id).map((it) => [it.id, it]));
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const same = child.id ? known.get(child.id) : at && !at.id ? at : null;
    if (same && same.nodeName === child.nodeName) {
      if (same !== at) old.insertBefore(same, at);
      else at = at.nextSibling;
      become(same, child);
    } else old.insertBefore(child, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const isTyped = (it) => ["INPUT", "TEXTAREA", "SELECT"].includes(it.nodeName);

// One look at a time; while one is on, or too near to the last, the next one waits.
const page = {
  wanted: false,
  busy: false,
  notBefore: 0,
  async look() {
    this.wanted = true;
    if (this.busy || document.hidden) return;
    this.busy = true;
    try {
      while (this.wanted && !document.hidden) {
        const pause = this.notBefore - performance.now();
        if (pause > 0) await new Promise((done) => setTimeout(done, pause));
        this.wanted = false;
        const begun = performance.now();
        await this.refresh();
        const ended = performance.now();
        this.notBefore = ended + Math.min(Math.max(LEAST, SHARE * (ended - begun)), MOST);
      }
    } finally {
      this.busy = false;
    }
  },
  async refresh() {
    let text;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.status === 401) return location.reload(); // the session has ended: that asks for a token
      if (answer.status >= 500 || answer.status === 429) return this.again(); // what else is refused says why
      text = await answer.text();
    } catch {
      return this.again();
    }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const place of ["header.bar", "main"]) {
      const old = document.querySelector(place);
      const its = fresh.querySelector(place);
      if (old && its) become(old, document.adoptNode(its));
    }
    document.title = fresh.title;
    lost(false);
    tell();
    follow();
  },
  again() {
    lost(true);
    setTimeout(() => this.look(), AGAIN);
  },
};

function lost(is) {
  const shown = document.getElementById("lost");
  if (shown) shown.hidden = !is;
}

// A stream that comes back by itself: the browser asks again when a connection breaks, this when it was refused. It is closed
// while nobody sees the page: a browser has six connections to a host, for all its pages. `close` ends it for good.
function stream(place, handlers, whenOpen = () => {}, whenLost = () => {}) {
  let source = null;
  let over = false;
  const open = () => {
    if (over || document.hidden || source) return;
    const its = (source = new EventSource(place));
    its.onopen = whenOpen;
    its.onerror = () => {
      whenLost();
      if (its.readyState !== EventSource.CLOSED || its !== source) return;
      source = null;
      setTimeout(open, AGAIN);
      page.look(); // which tells whether we may still look, and is as good, if seldom
    };
    for (const [name, handle] of Object.entries(handlers)) its.addEventListener(name, (it) => handle(JSON.parse(it.data)));
  };
  const shut = () => {
    source?.close();
    source = null;
  };
  const turn = () => (document.hidden ? shut() : open());
  document.addEventListener("visibilitychange", turn);
  open();
  return {
    close() {
      over = true;
      shut();
      document.removeEventListener("visibilitychange", turn);
    },
  };
}

function live() {
  const place = document.body.dataset.live;
  if (!place) return;
  const look = () => page.look();
  stream(place, { changed: look, refresh: look }, look, () => lost(true)); // what happened until it is open is not told
}

// The log of what runs, as it comes.
const following = new Map();
function follow() {
  for (const [log, its] of following)
    if (!log.isConnected) {
      its.close();
      following.delete(log);
    }
  const log = document.getElementById("follow");
  if (!log || following.has(log)) return;
  log.textContent = "";
  const line = (told) => {
    if (told.module !== log.dataset.module) return;
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    log.append(told.text.replace(/\n?$/, "\n"));
    if (atEnd) log.scrollTop = log.scrollHeight;
  };
  const end = () => {
    following.get(log)?.close();
    following.delete(log);
    page.look();
  };
  const anew = () => (log.textContent = "");
  following.set(log, stream(log.dataset.follow, { line, end, refresh: anew }, anew));
}

// How long ago, counted on.
const ahead = Date.now() - Date.parse(document.body.dataset.now); // ms by which our clock is, as the page has just come
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
function tell() {
  for (const it of document.querySelectorAll("time[title]")) {
    const seconds = Math.max((Date.now() - ahead - Date.parse(it.dateTime)) / 1000, 0);
    const [unit, name] = UNITS.find(([unit]) => seconds >= unit) || [1, "s"];
    it.textContent = `${Math.floor(seconds / unit)} ${name} ago`;
  }
}

function copy(button) {
  const text = button.dataset.copy;
  const said = button.textContent;
  const done = (words) => {
    button.textContent = words;
    setTimeout(() => (button.textContent = said), 1200);
  };
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => done("copied"), () => done(text));
  done(text); // without TLS there is no clipboard: then it is there to be marked
}

function step(by) {
  const items = [...document.querySelectorAll("[data-item]")];
  const now = items.findIndex((it) => it === document.activeElement);
  const at = now >= 0 ? now : items.findIndex((it) => it.getAttribute("aria-current"));
  items[Math.min(Math.max(at + by, 0), items.length - 1)]?.focus();
}

const KEYS = {
  "/": () => document.getElementById("find")?.focus(),
  j: () => step(1),
  k: () => step(-1),
  f: () => document.querySelector('[data-key="f"]')?.click(),
  "?": () => document.getElementById("help").showModal(),
};

document.addEventListener("keydown", (pressed) => {
  if (pressed.ctrlKey || pressed.metaKey || pressed.altKey || isTyped(pressed.target)) return;
  const does = KEYS[pressed.key];
  if (!does || document.querySelector("dialog[open]")) return;
  pressed.preventDefault();
  does();
});
document.addEventListener("click", (clicked) => {
  const button = clicked.target.closest("[data-copy]");
  if (button) copy(button);
});

// What is looked at first in a graph that is wider than its place: what was chosen, else what failed.
function aim() {
  const graph = document.getElementById("graph");
  const its = graph?.querySelector(".chosen, .bad");
  if (its) graph.scrollLeft += its.getBoundingClientRect().right - graph.getBoundingClientRect().right + 16;
}

live();
aim();
follow();
tell();
setInterval(tell, 1000);
