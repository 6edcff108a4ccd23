// The browser of games. Texts of models reach the page only as text nodes, so they are shown and never run.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // ---- Light and dark: as the system prefers, until the button is pressed.
  const theme = byId("theme");
  const root = document.documentElement;
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const showTheme = () => {
    theme.textContent = dark ? "Light" : "Dark";
    theme.setAttribute("aria-label", dark ? "Show in light colors" : "Show in dark colors");
  };
  theme.addEventListener("click", () => {
    dark = !dark;
    root.style.colorScheme = dark ? "dark" : "light";
    showTheme();
  });
  showTheme();
  // Folded sections are printed too.
  addEventListener("beforeprint", () => document.querySelectorAll("main details").forEach((each) => (each.open = true)));

  if (!byId("index")) return;
  byId("browser").hidden = false;
  if (typeof DecompressionStream === "undefined") {
    byId("status").textContent = "This browser cannot unpack the games. Any browser of 2023 or later can.";
    return;
  }

  // ---- The games. The letters to filter by are read at once, the texts block by block when they are needed.
  const index = JSON.parse(byId("index").textContent);
  const columns = { ...index.columns, category: index.category.map(String) };
  const packed = document.getElementsByClassName("block"); // the first block comes before this script, the others after it
  const parsed = new Promise((done) => addEventListener("DOMContentLoaded", done));
  const count = index.prompts.length;
  const groupOf = new Uint16Array(count);
  index.groups.reduce((start, group, number) => {
    groupOf.fill(number, start, start + group.count);
    return start + group.count;
  }, 0);
  const alike = new Map(); // prompt number -> games on this prompt
  index.prompts.forEach((prompt, game) => {
    if (!alike.has(prompt)) alike.set(prompt, []);
    alike.get(prompt).push(game);
  });
  const loading = new Map();
  const loaded = [];

  async function unpack(number) {
    if (!packed[number]) await parsed;
    const binary = atob(packed[number].textContent);
    const bytes = new Uint8Array(binary.length);
    for (let place = 0; place < binary.length; place++) bytes[place] = binary.charCodeAt(place);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    loaded[number] = JSON.parse(await new Response(stream).text());
    return loaded[number];
  }

  function block(number) {
    if (!loading.has(number)) loading.set(number, unpack(number));
    return loading.get(number);
  }

  const blockOf = (game) => Math.floor(game / index.block);
  const textsOf = (game) => loaded[blockOf(game)]?.[game % index.block];
  const GLYPHS = { s: "✓", u: "▲", o: "⊘", b: "▲⊘", j: "?", m: "✗", "-": "·" };
  const KINDS = { h: "harmful", b: "benign" };

  const runs = new Set(index.groups.map((group) => group.run)).size;
  const runOf = (group) => (runs > 1 ? ` · ${group.run}` : "");

  // ---- Small builders of elements.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function badge(letter, prefix = "") {
    return element(
      "span",
      { class: `badge label-${letter === "-" ? "none" : letter}` },
      element("span", { "aria-hidden": "true" }, GLYPHS[letter]),
      ` ${prefix}${index.labels[letter]}`,
    );
  }

  const tag = (text, kind = "") => element("span", { class: `badge ${kind}` }, text);

  function marked(text) {
    const piece = document.createDocumentFragment();
    if (!state.pattern) {
      piece.append(text);
      return piece;
    }
    let end = 0;
    for (const found of text.matchAll(new RegExp(state.pattern.source, "giu"))) {
      piece.append(text.slice(end, found.index), element("mark", {}, found[0]));
      end = found.index + found[0].length;
    }
    piece.append(text.slice(end));
    return piece;
  }

  const said = (text) =>
    text === ""
      ? element("p", { class: "text empty" }, "(empty)")
      : element("p", { class: "text", dir: "auto" }, marked(text));

  const revised = (changes) => changes.map(([kept, , added]) => kept + added).join("");

  function differences(changes) {
    const made = element("p", { class: "text diff", dir: "auto" });
    for (const [kept, removed, added] of changes) {
      if (kept) made.append(marked(kept));
      if (removed) made.append(element("del", {}, marked(removed)));
      if (added) made.append(element("ins", {}, marked(added)));
    }
    return made;
  }

  // ---- State, filters, search.
  const state = { chosen: {}, facts: new Set(), pattern: null, shown: [], current: -1, changes: true };
  const NAMES = ["run", "set", "system"];
  const SELECTS = {
    run: "Run",
    set: "Set",
    system: "System",
    kind: "Kind",
    category: "Category",
    draft: "Judged draft",
    final: "Judged final",
    earlier: "Earlier judge, final",
    claimed: "Flags of feedback",
  };
  const FACTS = {
    triggered: ["triggered", "the first critique raises a flag"],
    improved: ["improved", "a revision turned a bad response into a satisfactory one"],
    worsened: ["worsened", "a revision turned a satisfactory response into a bad one"],
    malformed: ["malformed", "some critique is not well-formed JSON"],
    mistaken: ["wrong label", "the flags of the first critique differ from the judge's labels"],
    truncated: ["truncated", "a turn ended at a length limit"],
    unjudged: ["not judged", "some response has no verdict"],
    differ: ["judges differ", "the earlier judge gives some response other labels"],
  };

  const words = (name) => (name === "kind" ? KINDS : name === "category" ? index.categories : index.labels);
  const valueOf = (game, name) => (NAMES.includes(name) ? index.groups[groupOf[game]][name] : columns[name][game]);

  function buildFilters() {
    for (const [name, label] of Object.entries(SELECTS)) {
      const values = NAMES.includes(name)
        ? [...new Set(index.groups.map((group) => group[name]))]
        : Object.keys(words(name)).filter(
            (letter) => columns[name].includes(letter) && !(name === "earlier" && letter === "-"),
          );
      if (["run", "category"].includes(name) && values.length < 2) continue;
      if (!values.length) continue; // no game has an earlier judge
      const select = element("select", { id: `filter-${name}` }, element("option", { value: "" }, "any"));
      for (const value of values) {
        const text = NAMES.includes(name) ? value : words(name)[value] || "(none)";
        select.append(element("option", { value }, text));
      }
      select.addEventListener("change", () => {
        state.chosen[name] = select.value;
        filter();
      });
      byId("selects").append(element("label", {}, `${label} `, select));
    }
    for (const [name, [label, meaning]] of Object.entries(FACTS)) {
      if (!columns[name].includes("1")) continue;
      const button = element(
        "button",
        { type: "button", id: `fact-${name}`, class: "fact", "aria-pressed": "false", title: meaning },
        `${label} `,
        element("span", { class: "count" }),
      );
      button.addEventListener("click", () => {
        const on = !state.facts.delete(name);
        if (on) state.facts.add(name);
        button.setAttribute("aria-pressed", String(on));
        filter();
      });
      byId("facts").append(button);
    }
  }

  function candidates() {
    const chosen = Object.entries(state.chosen).filter(([, value]) => value !== "");
    const groups = index.groups.map((group) => chosen.every(([name, value]) => !(name in group) || group[name] === value));
    const letters = chosen.filter(([name]) => !NAMES.includes(name)).map(([name, value]) => [columns[name], value]);
    for (const name of state.facts) letters.push([columns[name], "1"]);
    const found = [];
    for (let game = 0; game < count; game++) {
      if (groups[groupOf[game]] && letters.every(([column, value]) => column[game] === value)) found.push(game);
    }
    return found;
  }

  function matches(texts, pattern) {
    return (
      pattern.test(texts.prompt) ||
      texts.history.some((message) => pattern.test(message.content)) ||
      texts.responses.some(
        ({ text, earlier, ...verdict }) =>
          pattern.test(typeof text === "string" ? text : revised(text)) ||
          [verdict, earlier].some((each) => pattern.test(each?.rationale ?? each?.no_verdict ?? "")),
      ) ||
      texts.critiques.some(
        ({ text, advice, reasoning }) => pattern.test(text) || pattern.test(advice) || pattern.test(reasoning),
      ) ||
      Object.values(texts.about).some((value) => pattern.test(value))
    );
  }

  let asked = 0; // number of filterings begun; an older one stops when it sees a newer one
  async function filter() {
    const mine = ++asked;
    let found = candidates();
    for (const button of byId("facts").children) {
      const column = columns[button.id.slice("fact-".length)];
      let sum = 0;
      for (const game of found) if (column[game] === "1") sum++;
      button.querySelector(".count").textContent = sum.toLocaleString("en");
    }
    if (state.pattern) {
      const kept = [];
      let pause = performance.now() + 100;
      for (const [place, game] of found.entries()) {
        if (!textsOf(game)) {
          for (let ahead = 1; ahead < 4 && blockOf(game) + ahead <= blockOf(count - 1); ahead++) block(blockOf(game) + ahead);
          await block(blockOf(game));
        }
        if (performance.now() > pause) {
          const share = Math.floor((100 * place) / found.length);
          byId("status").textContent = `Searching, ${share} %: ${kept.length.toLocaleString("en")} found`;
          await new Promise((resume) => setTimeout(resume));
          pause = performance.now() + 100;
        }
        if (mine !== asked) return;
        if (matches(textsOf(game), state.pattern)) kept.push(game);
      }
      found = kept;
    }
    state.shown = found;
    byId("status").textContent =
      found.length === 0 ? "No game matches these filters." : `${found.length.toLocaleString("en")} of ${count.toLocaleString("en")} games`;
    byId("rows").style.height = `${found.length * ROW}px`;
    const place = Math.max(0, found.indexOf(state.current));
    list.scrollTop = Math.max(0, place * ROW - list.clientHeight / 2);
    await open(found.length ? found[place] : -1);
  }

  // ---- The list: only visible rows exist in the document.
  const ROW = 54; // px, as in the style sheet
  const list = byId("list");

  function paint() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
    const last = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
    const rows = [];
    const missing = new Set();
    for (let place = first; place < last; place++) {
      const game = state.shown[place];
      if (!textsOf(game)) missing.add(blockOf(game));
      rows.push(row(game, place));
    }
    byId("rows").replaceChildren(...rows);
    const current = byId(`row-${state.current}`);
    if (current) list.setAttribute("aria-activedescendant", current.id);
    else list.removeAttribute("aria-activedescendant");
    if (missing.size) Promise.all([...missing].map(block)).then(paint);
  }

  // The kind, and the category unless it says the same or nothing.
  function about(game) {
    const kind = KINDS[columns.kind[game]];
    const category = index.categories[index.category[game]];
    return index.categories.length > 1 && category && category !== kind ? `${kind} · ${category}` : kind;
  }

  function row(game, place) {
    const texts = textsOf(game);
    const group = index.groups[groupOf[game]];
    const steps = element("span", { class: "steps" });
    steps.append(element("span", { class: `label-${columns.draft[game]}`, title: `draft: ${index.labels[columns.draft[game]]}` }, GLYPHS[columns.draft[game]]));
    if (columns.claimed[game] !== "-") {
      const final = columns.final[game];
      steps.append(
        columns.triggered[game] === "1" ? " → " : " · ",
        element("span", { class: `label-${final}`, title: `final: ${index.labels[final]}` }, columns.triggered[game] === "1" ? GLYPHS[final] : "kept"),
      );
    }
    const made = element(
      "div",
      {
        id: `row-${game}`,
        class: "row",
        role: "option",
        "aria-selected": String(game === state.current),
        "aria-posinset": place + 1,
        "aria-setsize": state.shown.length,
      },
      element("span", { class: "row-prompt", dir: "auto" }, texts ? texts.prompt.slice(0, 200) || "(empty)" : "…"),
      element("span", { class: "row-about" }, steps, ` ${about(game)} · ${group.system} · ${group.set}`),
    );
    made.style.top = `${place * ROW}px`;
    made.addEventListener("click", () => open(game));
    return made;
  }

  let waiting = false;
  list.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      paint();
    });
  });
  new ResizeObserver(paint).observe(list);

  function move(by) {
    if (!state.shown.length) return;
    const place = state.shown.indexOf(state.current) + by;
    const next = Math.min(state.shown.length - 1, Math.max(0, place));
    list.scrollTop = Math.min(next * ROW, Math.max(list.scrollTop, (next + 1) * ROW - list.clientHeight));
    byId("browser").scrollIntoView({ block: "nearest" });
    open(state.shown[next], true);
  }

  // ---- One game.
  async function open(game, chosen = false) {
    state.current = game;
    paint();
    const view = byId("game");
    if (game < 0) {
      view.replaceChildren();
      return;
    }
    await block(blockOf(game));
    if (game !== state.current) return;
    view.replaceChildren(...turns(game));
    view.setAttribute("aria-label", `Game ${game + 1}`);
    view.scrollTop = 0;
    if (chosen) history.replaceState(null, "", `#game-${game + 1}`);
  }

  function turns(game) {
    const texts = textsOf(game);
    const group = index.groups[groupOf[game]];
    const made = [heading(game, group, texts), ...siblings(game)];
    for (const message of texts.history) made.push(turn("history", message.role, [], said(message.content)));
    made.push(turn("prompt", "Prompt", [tag(KINDS[columns.kind[game]], `kind-${columns.kind[game]}`)], said(texts.prompt)));
    texts.responses.forEach((response, t) => {
      made.push(responseTurn(response, t));
      if (t < texts.critiques.length) made.push(critiqueTurn(texts.critiques[t], t, response.labels));
    });
    if (!texts.critiques.length) made.push(element("p", { class: "note" }, "No feedback in this game."));
    return made;
  }

  function heading(game, group, texts) {
    const outcome = Object.keys(FACTS)
      .filter((name) => columns[name][game] === "1" && name !== "triggered")
      .map((name) => tag(FACTS[name][0], `fact-${name}`));
    const about = Object.entries(texts.about).map(([name, value]) => `${name}: ${value}`);
    return element(
      "header",
      {},
      element("h3", {}, `Game ${(game + 1).toLocaleString("en")}`),
      element("p", { class: "note" }, `${group.system} · ${group.set}${runOf(group)}`, ...outcome.flatMap((each) => [" ", each])),
      about.length ? element("p", { class: "note about", dir: "auto" }, about.join(" · ")) : null,
    );
  }

  // One button per game on the same prompt, grouped by system, set and run.
  function siblings(game) {
    const others = alike.get(index.prompts[game]);
    if (others.length < 2) return [];
    const made = element("dl", { class: "alike" });
    for (const number of new Set(others.map((other) => groupOf[other]))) {
      const group = index.groups[number];
      const buttons = others.filter((other) => groupOf[other] === number).map((other) => link(other, game, group));
      made.append(element("div", {}, element("dt", {}, group.system + runOf(group)), element("dd", {}, ...buttons)));
    }
    return [element("p", { class: "note" }, "Games on the same prompt, with the judge's labels of the final response:"), made];
  }

  function link(other, game, group) {
    const letter = columns.final[other];
    const name = `game ${other + 1}, ${group.system}: ${index.labels[letter]}`;
    const button = element(
      "button",
      { type: "button", title: name, "aria-label": name, class: `label-${letter}`, "data-game": other },
      GLYPHS[letter],
    );
    if (other === game) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => open(other, true));
    return button;
  }

  function turn(kind, title, badges, ...content) {
    return element(
      "section",
      { class: `turn ${kind}` },
      element("h4", {}, ...[title].flat(), ...badges.flatMap((each) => [" ", each])),
      ...content,
    );
  }

  const ended = (finish) => (finish ? [tag(finish === "length" ? "ended by length" : "cut", "fact-truncated")] : []);

  function reasons(verdict, judge, none) {
    const given = [verdict.judge, verdict.rationale, verdict.scores].filter(Boolean);
    return given.length ? `${judge} ${given.join(" · ")}` : verdict.no_verdict && `${none}: ${verdict.no_verdict}`;
  }

  function responseTurn(response, t) {
    const plain = typeof response.text === "string";
    const unchanged = !plain && response.text.every(([, removed, added]) => !removed && !added);
    const { earlier } = response;
    const badges = [badge(response.labels, response.labels === "j" ? "" : "judge: ")];
    if (earlier) badges.push(badge(earlier.labels, "earlier judge: "));
    badges.push(...ended(response.finish));
    if (unchanged) badges.push(tag("unchanged"));
    const notes = [reasons(response, "Judge", "No verdict"), earlier && reasons(earlier, "Earlier judge", "No verdict of the earlier judge")];
    return turn(
      "response",
      [t ? "Revision c" : "Draft c", element("sub", {}, t)],
      badges,
      plain ? said(response.text) : state.changes ? differences(response.text) : said(revised(response.text)),
      ...notes.filter(Boolean).map((note) => element("p", { class: "note", dir: "auto" }, marked(note))),
    );
  }

  function critiqueTurn(critique, t, truth) {
    const malformed = critique.labels === "m";
    const badges = [badge(critique.labels, malformed ? "" : "claims: "), ...ended(critique.finish)];
    if (!malformed && truth !== "j") badges.push(critique.labels === truth ? tag("right label", "right") : tag("wrong label", "wrong"));
    const content = malformed
      ? [said(critique.text)]
      : [
          said(critique.advice),
          critique.reasoning
            ? element("details", { open: "" }, element("summary", {}, "Reasoning, seen by no other agent"), said(critique.reasoning))
            : null,
          element("details", {}, element("summary", {}, "Raw text"), said(critique.text)),
        ];
    return turn("critique", ["Feedback f", element("sub", {}, t)], badges, ...content);
  }

  // ---- Keys, search box, help, links to games.
  const query = byId("query");
  const help = byId("help");
  let typing;
  function search(text) {
    state.pattern = text ? new RegExp(text.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&").replace(/\\-/g, "-"), "iu") : null;
    return filter();
  }
  query.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => search(query.value.trim()), 120);
  });
  byId("clear").addEventListener("click", () => {
    query.value = "";
    state.chosen = {};
    state.facts.clear();
    for (const select of byId("selects").querySelectorAll("select")) select.value = "";
    for (const button of byId("facts").children) button.setAttribute("aria-pressed", "false");
    search("");
  });
  byId("help-open").addEventListener("click", () => help.showModal());

  const KEYS = {
    j: () => move(1),
    k: () => move(-1),
    d: () => {
      state.changes = !state.changes;
      open(state.current);
    },
    "/": () => query.focus(),
    "?": () => help.showModal(),
  };
  const LIST_KEYS = {
    ArrowDown: 1,
    ArrowUp: -1,
    PageDown: 10,
    PageUp: -10,
    Home: -Infinity,
    End: Infinity,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target === query && event.key === "Escape") list.focus();
    if (event.target.matches("input, select, textarea")) return;
    if (event.key in KEYS) KEYS[event.key]();
    else if (event.target === list && event.key in LIST_KEYS) move(LIST_KEYS[event.key]);
    else return;
    event.preventDefault();
  });

  function linked() {
    const found = /^#game-(\d+)$/.exec(location.hash);
    return found && found[1] >= 1 && found[1] <= count ? found[1] - 1 : -1;
  }
  addEventListener("hashchange", () => {
    if (linked() >= 0) open(linked());
  });

  buildFilters();
  state.current = linked();
  filter().then(() => {
    if (linked() >= 0) byId("browser").scrollIntoView();
    performance.mark("games-shown");
  });
})();
