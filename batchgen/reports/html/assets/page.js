"use strict";
/* The conversation browser and the theme switch. Texts are shown as text nodes only and never parsed as HTML. */
(() => {
  const ROW = 60; // pixels of a list row, as in page.css
  const SPARE = 6; // rows drawn above and below the visible ones
  const SLICE = 12; // milliseconds of searching before the browser may draw
  const REST = 120; // milliseconds after the last key before a search begins
  const REWRITTEN = 35; // percent of the answer kept; below this, underlines would be under nearly every word
  const STATES = { complete: "complete", open: "in progress", rejected: "rejected" };
  // Nothing is seen of these characters, so a sign stands for each; the same rule as in visible_text.py.
  const INVISIBLE = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0d\uffa0\u{e0100}-\u{e01ef}]/gu;
  const by = (id) => document.getElementById(id);

  function make(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text) put(node, text);
    return node;
  }

  function put(node, text) {
    let from = 0;
    for (const { 0: character, index } of text.matchAll(INVISIBLE)) {
      const sign = document.createElement("span");
      sign.className = "sign";
      sign.dir = "ltr";
      sign.title = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
      sign.textContent = character; // so that copied text is the text
      node.append(text.slice(from, index), sign);
      from = index + character.length;
    }
    node.append(text.slice(from));
  }

  // ---------------------------------------------------------------- theme

  const THEMES = ["auto", "light", "dark"];
  const remembered = () => {
    try { return localStorage.getItem("batchgen-theme"); } catch { return null; }
  };
  function theme(name) {
    const chosen = THEMES.includes(name) ? name : "auto";
    document.documentElement.dataset.theme = chosen;
    by("theme").textContent = `Theme: ${chosen}`;
    try { localStorage.setItem("batchgen-theme", chosen); } catch { /* a private window may not allow storage */ }
  }
  theme(remembered());
  by("theme").addEventListener("click", () => {
    theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  });

  // ---------------------------------------------------------------- the conversations

  async function unpacked() {
    const node = by("packed");
    const coded = atob(node.textContent);
    node.remove();
    const bytes = Uint8Array.from(coded, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  const texts = (turn) => [turn[0], turn[1].join(""), turn[2].join("")];
  const labelsOf = (item) => new Set(item.t.flatMap((turn) => turn[3]));
  const winnersOf = (item) => new Set(item.t.flatMap((turn) => (turn[5] ? [turn[5][0]] : [])));
  const fullRounds = (item) => item.t.filter((turn) => texts(turn).every(Boolean)).length;
  const words = (name) => name.replace(/_/g, " ").replace(":", " · ");

  function searchable(item) {
    item.h ??= [item.i, ...item.t.flatMap(texts), ...(item.w ?? []).slice(2, 4)].join("\n").toLowerCase();
    return item.h;
  }

  function tongue(text) {
    if (/[\u3041-\u30ff]/.test(text)) return "ja";
    if (/[\uac00-\ud7a3]/.test(text)) return "ko";
    return /[\u3400-\u9fff\uf900-\ufaff]/.test(text) ? "zh-Hans" : "";
  }

  function start({ labels, winners, items }) {
    const list = by("list"), rows = by("rows"), detail = by("detail");
    const search = by("search"), outcome = by("outcome"), flag = by("flag"), verdict = by("verdict"), rounds = by("rounds");
    const controls = [outcome, flag, verdict, rounds];
    let view = items.map((_, at) => at);
    let chosen = -1; // an index into view
    let wanted = ""; // the search text in lower case
    let turnOfSearch = 0; // number of the newest search; older ones stop

    // ---- the filters

    function options(select, entries) {
      for (const [value, text] of entries) select.append(new Option(text, value));
    }
    function counts(of) {
      const found = new Map();
      for (const item of items) for (const key of of(item)) found.set(key, (found.get(key) ?? 0) + 1);
      return found;
    }
    const numbered = (text, count) => `${text} (${(count ?? 0).toLocaleString("en")})`;

    const states = counts((item) => [item.s]);
    const reasons = [...counts((item) => (item.s === "rejected" ? [item.w[2]] : []))].sort((a, b) => b[1] - a[1]);
    options(outcome, [...states].map(([state, count]) => [state, numbered(STATES[state], count)]));
    options(outcome, reasons.map(([reason, count]) => [`=${reason}`, numbered(`rejected: ${words(reason)}`, count)]));
    const flagged = [...counts(labelsOf)].sort((a, b) => b[1] - a[1]);
    const any = flagged.length ? [["any", "any flag"], ["none", "no flag"]] : [];
    options(flag, [...any, ...flagged.map(([at, count]) => [labels[at][0], numbered(words(labels[at][0]), count)])]);
    const won = counts(winnersOf);
    options(verdict, winners.filter(([name]) => won.has(name)).map(([name]) => [name, numbered(name, won.get(name))]));
    const full = [...counts((item) => [fullRounds(item)])].sort((a, b) => a[0] - b[0]);
    options(rounds, full.map(([number, count]) => [String(number), numbered(`${number}`, count)]));

    function passes(item) {
      if (outcome.value && outcome.value !== (outcome.value[0] === "=" ? `=${item.w?.[2]}` : item.s)) return false;
      if (outcome.value[0] === "=" && item.s !== "rejected") return false;
      if (rounds.value && fullRounds(item) !== Number(rounds.value)) return false;
      if (verdict.value && !winnersOf(item).has(verdict.value)) return false;
      if (!flag.value) return true;
      const found = labelsOf(item);
      if (flag.value === "any" || flag.value === "none") return (found.size > 0) === (flag.value === "any");
      return [...found].some((at) => labels[at][0] === flag.value);
    }

    async function matching(turn) {
      const found = [];
      let until = performance.now() + SLICE;
      for (let at = 0; at < items.length; at += 1) {
        if (passes(items[at]) && (!wanted || searchable(items[at]).includes(wanted))) found.push(at);
        if (performance.now() > until) {
          await new Promise((go) => { setTimeout(go); });
          if (turn !== turnOfSearch) return null;
          until = performance.now() + SLICE;
        }
      }
      return found;
    }

    async function filter() {
      turnOfSearch += 1;
      wanted = search.value.trim().toLowerCase();
      const before = items[view[chosen]];
      const found = await matching(turnOfSearch);
      if (!found) return;
      view = found;
      by("found").textContent = `${view.length.toLocaleString("en")} of ${items.length.toLocaleString("en")}`;
      by("reset").disabled = !wanted && controls.every((control) => !control.value);
      by("nothing").hidden = view.length > 0;
      const again = before ? view.findIndex((at) => items[at] === before) : -1;
      rows.style.height = `${view.length * ROW}px`;
      choose(again >= 0 ? again : view.length ? 0 : -1, false);
    }

    // ---- the list: only visible rows are in the document

    function row(place) {
      const item = items[view[place]];
      const node = make("li", `row ${item.s}`);
      node.id = `row-${place}`;
      node.dataset.place = place;
      node.style.transform = `translateY(${place * ROW}px)`;
      node.setAttribute("role", "option");
      node.setAttribute("aria-selected", String(place === chosen));
      node.setAttribute("aria-setsize", view.length);
      node.setAttribute("aria-posinset", place + 1);
      const head = make("span", "head");
      head.append(make("span", "id", item.i));
      if (item.s !== "complete") head.append(make("span", "why", item.s === "rejected" ? words(item.w[2]) : STATES[item.s]));
      const marks = labelsOf(item).size;
      if (marks) head.append(make("span", "marks", `${marks} flag${marks === 1 ? "" : "s"}`));
      const first = make("span", "first", item.t[0]?.[0] ?? "");
      first.lang = tongue(first.textContent);
      first.dir = "auto";
      node.append(head, first);
      return node;
    }

    function draw() {
      const from = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
      const to = Math.min(view.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
      const shown = [];
      for (let place = from; place < to; place += 1) shown.push(row(place));
      rows.replaceChildren(...shown);
      const there = chosen >= from && chosen < to;
      if (there) list.setAttribute("aria-activedescendant", `row-${chosen}`);
      else list.removeAttribute("aria-activedescendant");
    }

    function choose(place, told = true) {
      chosen = place;
      if (place >= 0) {
        const top = place * ROW;
        if (top < list.scrollTop) list.scrollTop = top;
        else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
      }
      draw();
      const item = items[view[chosen]];
      show(item);
      if (told && item) history.replaceState(null, "", `#${item.i}`);
    }

    function move(by) {
      if (view.length) choose(Math.min(Math.max(chosen + by, 0), view.length - 1));
    }

    // ---- one conversation

    function text(name, segments, tag) {
      const node = make("p", `text ${name}`);
      segments.forEach((segment, at) => {
        if (at % 2) node.append(make(tag, "", segment));
        else put(node, segment);
      });
      const whole = segments.join("");
      node.lang = tongue(whole);
      node.dir = "auto";
      if (!whole) node.append(make("span", "absent", "not written"));
      return node;
    }

    function part(name, segments, tag, beside) {
      const node = make("div", `part ${name}`);
      const head = make("h5", "", name[0].toUpperCase() + name.slice(1));
      const length = [...segments.join("")].length;
      if (length) head.append(make("span", "size", `${length.toLocaleString("en")} characters${beside}`));
      node.append(head, text(name, segments, tag));
      return node;
    }

    function flagsOf(turn) {
      const node = make("ul", "flags");
      for (const at of turn[3]) {
        const entry = make("li", "", words(labels[at][0]));
        entry.title = labels[at][1];
        node.append(entry);
      }
      return node;
    }

    function judged([winner, judge, said]) {
      const node = make("details", "judged");
      node.open = winner === verdict.value;
      const head = make("summary", "", "Judge: ");
      head.append(make("span", `verdict ${winner}`, winners.find(([name]) => name === winner)[1]));
      const reasons = make("dl", "");
      for (const [order, choice, reason] of said) {
        const shown = make("dt", "", `With the ${order}, it `);
        shown.append(make("strong", "", choice), ":");
        const why = make("dd", "", reason);
        why.dir = "auto";
        reasons.append(shown, why);
      }
      node.append(head, reasons, make("p", "note", judge));
      return node;
    }

    function kept(turn) {
      const same = turn[1].filter((_, at) => at % 2 === 0).join("").length;
      const whole = turn[1].join("").length;
      return whole && turn[2].length ? Math.round((100 * same) / whole) : null;
    }

    function round(turn, at) {
      const node = make("section", "round");
      const head = make("h4", "", `Round ${at + 1}`);
      if (at === 0) head.append(make("span", "size", "the seed"));
      const share = kept(turn);
      const pair = make("div", share !== null && share < REWRITTEN ? "pair rewritten" : "pair");
      const beside = share === null ? "" : `, ${share} % of the answer kept`;
      pair.append(part("answer", turn[1], "del", ""), part("correction", turn[2], "ins", beside));
      node.append(head, flagsOf(turn), part("question", [turn[0]], "", ""), pair);
      if (turn[4]) node.append(make("p", "note", "Long texts are cut here. The exported files have the full texts."));
      if (turn[5]) node.append(judged(turn[5]));
      return node;
    }

    function standing(item) {
      const [number, stage, why, more, attempts] = item.w;
      const node = make("p", `standing ${item.s}`);
      const where = `round ${number} ${stage}`;
      node.append(make("strong", "", item.s === "rejected" ? `Rejected at ${where}: ${words(why)}` : `In progress: ${where} is ${why}`));
      if (attempts) node.append(` after ${attempts} attempt${attempts === 1 ? "" : "s"}`);
      if (more) node.append(make("span", "more", more));
      return node;
    }

    function show(item) {
      if (!item) {
        detail.replaceChildren(make("p", "empty", "No conversation to show."));
        return;
      }
      const head = make("header", "");
      head.append(make("h3", "", item.i), make("span", `state ${item.s}`, STATES[item.s]));
      const place = make("span", "place", `${(chosen + 1).toLocaleString("en")} / ${view.length.toLocaleString("en")}`);
      head.append(place);
      for (const [label, by, sign] of [["Previous", -1, "↑"], ["Next", 1, "↓"]]) {
        const button = make("button", "step", sign);
        button.type = "button";
        button.setAttribute("aria-label", `${label} conversation`);
        button.dataset.by = by;
        head.append(button);
      }
      detail.replaceChildren(head, ...(item.w ? [standing(item)] : []), ...item.t.map(round));
      detail.scrollTop = 0;
      highlight();
    }

    function highlight() {
      if (!globalThis.CSS?.highlights) return;
      CSS.highlights.delete("found");
      if (!wanted) return;
      const ranges = [];
      const walker = document.createTreeWalker(detail, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const node = walker.currentNode, small = node.data.toLowerCase();
        if (small.length !== node.data.length) continue; // the lower case of a letter is longer: positions would be wrong
        for (let at = small.indexOf(wanted); at >= 0; at = small.indexOf(wanted, at + wanted.length)) {
          const range = document.createRange();
          range.setStart(node, at);
          range.setEnd(node, at + wanted.length);
          ranges.push(range);
        }
      }
      CSS.highlights.set("found", new Highlight(...ranges));
    }

    // ---- clicks and keys

    let rest = 0;
    search.addEventListener("input", () => { clearTimeout(rest); rest = setTimeout(filter, REST); });
    for (const control of controls) control.addEventListener("change", filter);
    by("reset").addEventListener("click", () => { clear(); search.focus(); });
    list.addEventListener("scroll", draw, { passive: true });
    new ResizeObserver(draw).observe(list);
    rows.addEventListener("click", (event) => {
      const node = event.target.closest(".row");
      if (!node) return;
      choose(Number(node.dataset.place));
      if (detail.getBoundingClientRect().top > innerHeight / 2) detail.scrollIntoView({ block: "start" });
    });
    detail.addEventListener("click", (event) => {
      const button = event.target.closest("button.step");
      if (!button) return;
      move(Number(button.dataset.by));
      detail.querySelector(`button.step[data-by="${button.dataset.by}"]`)?.focus();
    });
    for (const button of document.querySelectorAll("button[data-flag], button[data-reason], button[data-verdict]")) {
      button.disabled = false;
      button.addEventListener("click", () => {
        clear(button.dataset);
        by("conversations").scrollIntoView();
        list.focus({ preventScroll: true });
      });
    }

    function clear({ flag: name, reason, verdict: winner } = {}) {
      search.value = "";
      for (const control of controls) control.value = "";
      if (name) flag.value = name;
      if (winner) verdict.value = winner;
      if (reason) outcome.value = `=${reason}`;
      return filter();
    }

    const typing = (node) => node.matches?.("input, select, textarea");
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { key, target } = event;
      const inSearch = target === search;
      if (key === "Escape" && (inSearch || !typing(target))) {
        if (search.value) { search.value = ""; filter(); }
        list.focus({ preventScroll: true });
      } else if (key === "/" && !typing(target)) {
        search.focus();
        search.select();
      } else if ((key === "j" || key === "k") && !typing(target)) {
        move(key === "j" ? 1 : -1);
      } else if ((key === "ArrowDown" || key === "ArrowUp") && (inSearch || target === list)) {
        move(key === "ArrowDown" ? 1 : -1);
      } else if (target === list && (key === "Home" || key === "End")) {
        move(key === "End" ? view.length : -view.length);
      } else if (target === list && (key === "PageDown" || key === "PageUp")) {
        move((key === "PageDown" ? 1 : -1) * Math.max(Math.floor(list.clientHeight / ROW), 1));
      } else {
        return;
      }
      event.preventDefault();
    });

    // ---- links to a conversation

    async function follow() {
      const linked = items.findIndex((item) => `#${item.i}` === location.hash);
      if (linked < 0) return;
      clearTimeout(rest); // a search that was typed just now comes first
      await filter();
      if (!view.includes(linked)) await clear();
      choose(view.indexOf(linked));
      by("conversations").scrollIntoView();
      if (detail.getBoundingClientRect().top > innerHeight / 2) detail.scrollIntoView({ block: "start" });
    }

    for (const link of document.querySelectorAll("#first a")) {
      link.addEventListener("click", (event) => {
        event.preventDefault(); // the address may be the same already: then the browser would do nothing
        history.pushState(null, "", link.hash);
        follow();
        detail.focus({ preventScroll: true });
      });
    }
    for (const node of document.querySelectorAll("#first .opening")) node.lang = tongue(node.textContent);
    addEventListener("hashchange", follow);
    filter().then(follow);
    document.documentElement.dataset.ready = "yes";
  }

  if (by("packed")) {
    unpacked().then(start, () => {
      by("detail").textContent = "This browser cannot unpack the conversations. Please use a newer one.";
    });
  }
})();
