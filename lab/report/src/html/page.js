(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const rows = $$("details.s").map((row) => ({
    row, verdict: row.dataset.v, text: $("summary", row).textContent.toLowerCase(),
  }));
  const chips = $$("[data-f]");
  const search = $("#search");

  // Filter and search. Both are kept in the address, so that a view can be sent to somebody.
  function apply() {
    const wanted = chips.filter((c) => c.getAttribute("aria-pressed") === "true").map((c) => c.dataset.f);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, verdict, text } of rows) {
      const fits = (!wanted.length || wanted.includes(verdict)) && words.every((w) => text.includes(w));
      row.hidden = !fits;
      shown += fits;
    }
    $("#count").textContent = shown === rows.length ? `${shown} scenario${shown === 1 ? "" : "s"}` : `${shown} of ${rows.length} scenarios`;
    $("#none").hidden = shown > 0;
  }
  function remember() {
    const wanted = chips.filter((c) => c.getAttribute("aria-pressed") === "true").map((c) => c.dataset.f);
    const view = new URLSearchParams();
    if (search.value) view.set("q", search.value);
    if (wanted.length) view.set("show", wanted.join(","));
    try { history.replaceState(null, "", view.size ? `#?${view}` : location.pathname); } catch { /* not on every file system */ }
  }
  for (const chip of chips) chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") !== "true");
    apply(); remember();
  });
  search.addEventListener("input", () => { apply(); remember(); });
  function go() {
    if (location.hash.startsWith("#?")) {
      const view = new URLSearchParams(location.hash.slice(2));
      search.value = view.get("q") ?? "";
      const show = (view.get("show") ?? "").split(",");
      for (const chip of chips) chip.setAttribute("aria-pressed", show.includes(chip.dataset.f));
    } else if (location.hash.length > 1) {
      const target = document.getElementById(location.hash.slice(1));
      if (target?.matches("details")) { target.open = true; target.scrollIntoView(); }
    }
    apply();
  }
  addEventListener("hashchange", go);
  go();

  // Keys: / searches, j and k go through the scenarios.
  addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    const step = { j: 1, k: -1 }[event.key];
    if (step) {
      const heads = rows.filter((r) => !r.row.hidden).map((r) => $("summary", r.row));
      const at = heads.findIndex((h) => h.parentElement.contains(document.activeElement));
      heads[Math.min(heads.length - 1, Math.max(0, at + step))]?.focus();
    }
  });

  // Light and dark.
  $("#theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // Commands to copy. Where a page from disk may not, the command is selected instead.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Selected";
    }
  });

  // Zoom: the picture grows, the page scrolls it. A click on a region fills the view with it.
  const LEFT = 58, CELL = 3, ROWS = 16, HEIGHT = 48;
  function zoom(figure, by, at) {
    const svg = $("svg.m", figure);
    const old = Number(svg.style.getPropertyValue("--z") || 1);
    const now = Math.min(64, Math.max(1, by === 0 ? 1 : old * by));
    const width = svg.getBoundingClientRect().width;
    const centre = at ?? (figure.scrollLeft + figure.clientWidth / 2) / width;
    svg.style.setProperty("--z", now);
    svg.style.setProperty("--t", Math.min(3, now ** 0.6));
    figure.scrollLeft = centre * svg.getBoundingClientRect().width - figure.clientWidth / 2;
  }
  function tools(figure) {
    if (figure.previousElementSibling?.matches(".zoom")) return;
    figure.setAttribute("aria-label", `Memory, step ${$(".no", figure.closest("li"))?.textContent ?? ""}`);
    const bar = document.createElement("div");
    bar.className = "zoom";
    for (const [text, label, by] of [["+", "Zoom in", 2], ["\u2212", "Zoom out", 0.5], ["fit", "Whole memory", 0]]) {
      const button = document.createElement("button");
      button.type = "button"; button.textContent = text;
      button.setAttribute("aria-label", label);
      button.addEventListener("click", () => zoom(figure, by));
      bar.append(button);
    }
    figure.before(bar);
  }
  document.addEventListener("toggle", (event) => {
    if (event.target.matches?.("details.s") && event.target.open) $$("figure", event.target).forEach(tools);
  }, true);
  $$("details.s[open] figure").forEach(tools);
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches("figure")) return;
    const by = { "+": 2, "=": 2, "-": 0.5, "0": 0 }[event.key];
    if (by !== undefined) { event.preventDefault(); zoom(event.target, by); }
  });

  // What is under the pointer: which page, and what it is.
  const NAMES = {
    a: "2M accepted", p: "2M pending", a4: "4K accepted", p4: "4K pending", f: "free entry of a table",
    s: "shared", s4: "shared, mapped at 4K", u: "left open by a race", gone: "gone in this step", e: "empty",
  };
  const rulers = new WeakMap();
  function ruler(list) {
    if (!rulers.has(list)) {
      rulers.set(list, (list.dataset.ruler ?? "").split(";").filter(Boolean).map((piece) => {
        const [x, first, pages] = piece.slice(1).split(",").map(Number);
        return { gap: piece[0] === "g", x, first, pages };
      }));
    }
    return rulers.get(list);
  }
  function size(bytes) {
    for (const [shift, unit] of [[40, "T"], [30, "G"], [20, "M"], [10, "K"]]) {
      if (bytes >= 2 ** shift && bytes % 2 ** shift === 0) return bytes / 2 ** shift + unit;
    }
    return String(bytes);
  }
  function under(event) {
    const svg = event.target.closest?.("svg.m");
    if (!svg) return null;
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    const list = svg.closest("ol");
    const piece = ruler(list).findLast((p) => p.x <= x);
    if (!piece || x < LEFT) return null;
    const maps = $$("use[href^='#t'],g[id^=t]", svg).map((g) => Number(g.getAttribute("y") ?? g.parentNode.transform.baseVal[0].matrix.f));
    const top = maps.find((m) => y >= m && y < m + HEIGHT);
    const state = NAMES[event.target.getAttribute("class")];
    if (piece.gap) return `${size(piece.pages * 4096)} left out: all alike`;
    if (top === undefined || x >= piece.x + 96) return null;
    const page = piece.first + Math.floor((x - piece.x) / CELL) * ROWS + Math.floor((y - top) / CELL);
    const gpa = BigInt(list.dataset.base) + BigInt(page) * 4096n;
    return { piece, text: `${size(page * 4096)} \u00b7 GPA 0x${gpa.toString(16)} \u00b7 page ${page - piece.first} of 512${state ? ` \u00b7 ${state}` : ""}` };
  }
  const tip = $("#under");
  document.addEventListener("pointermove", (event) => {
    const here = under(event);
    tip.hidden = !here;
    if (!here) return;
    tip.textContent = here.text ?? here;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 18}px`;
  });
  document.addEventListener("dblclick", (event) => {
    const here = under(event);
    if (!here?.piece) return;
    const svg = event.target.closest("svg.m"), figure = svg.closest("figure");
    const whole = svg.viewBox.baseVal.width;
    const fills = figure.clientWidth / (96 / whole * svg.getBoundingClientRect().width);
    zoom(figure, Math.max(2, fills * 0.9), (here.piece.x + 48) / whole);
  });
})();
