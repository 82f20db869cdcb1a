"""The page of `allgrad study watch`: it asks for status.json every two seconds, and changes what has changed."""

STYLE = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #595959; --line: #d5d5d5; --paper: #ffffff; --tint: #f3f5f7;
  --bar: #0072b2; --bad: #a63d00; --c0: #0072b2; --c1: #c04f00; --c2: #00795a; --c3: #a8588a; --c4: #8a6000;
  --c5: #2f86b8; --c6: #1a1a1a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8a8a8; --line: #3c4046; --paper: #16181b;
  --tint: #22262b; --bar: #56b4e9; --bad: #ff9a5c; --c0: #5fb0ea; --c1: #ff9457; --c2: #3fce9f; --c3: #e39cc4;
  --c4: #ecb640; --c5: #9ad3f5; --c6: #e8e8e8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem 1.25rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.75rem 0 .5rem; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; align-items: baseline; justify-content: space-between; }
a { color: inherit; }
#state { color: var(--soft); } #state.bad { color: var(--bad); font-weight: 600; }
#line { background: var(--tint); border-radius: .5rem; padding: .75rem 1rem; margin: .75rem 0 0; font-weight: 600; }
.columns { display: grid; grid-template-columns: minmax(0, 11fr) minmax(0, 9fr); gap: 0 2.5rem; }
@media (max-width: 68rem) { .columns { grid-template-columns: minmax(0, 1fr); } }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; min-width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); white-space: nowrap; }
th, td { padding: .2rem .5rem .2rem 0; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; } th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.now td { font-weight: 600; } tr.later td { color: var(--soft); }
.meter { width: 5rem; height: .5rem; border-radius: .25rem; background: var(--line); overflow: hidden; }
.meter div { height: 100%; background: var(--bar); }
.bad { color: var(--bad); } .zero { color: var(--line); }
.note, figcaption, .legend { color: var(--soft); font-size: .875rem; }
.legend span { margin-right: 1.1rem; white-space: nowrap; }
.legend svg { display: inline; width: 1rem; height: 1rem; margin-right: .3rem; vertical-align: -.2rem; }
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 13px; } @media (max-width: 40rem) { svg text { font-size: 18px; } }
svg path { fill: none; }
.axis { stroke: var(--soft); } .grid { stroke: var(--line); stroke-width: .6; }
.ideal { stroke: var(--soft); stroke-dasharray: 4 4; } .line { stroke: var(--c); stroke-width: 1.8; }
svg path.bar { stroke: var(--c); stroke-width: 1.2; opacity: .7; }
svg path.mark { fill: var(--c); stroke: var(--c); stroke-width: 1.4; } svg path.mark.hollow { fill: var(--paper); }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c: var(--c4); }
.c5 { --c: var(--c5); } .c6 { --c: var(--c6); }
details { margin: .5rem 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
[hidden] { display: none; }
"""
SCRIPT = """\
const $ = id => document.getElementById(id), shown = {}, open = new Set();
const wide = matchMedia("(min-width: 40rem)").matches;
function put(id, what, draw) {  // draws anew only what has changed, so that nothing flickers
  const key = JSON.stringify(what);
  if (shown[id] !== key) { shown[id] = key; draw($(id), what); }
}
function node(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
function number(value) {
  if (value === 0) return "0";
  if (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3) return value.toExponential(2);
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}
function rounded(count) {  // to two digits
  const unit = 10 ** Math.max(0, String(Math.round(count)).length - 2);
  return Math.round(count / unit) * unit;
}
function table(heads, rows) {
  const made = node("table"), head = node("tr"), box = node("div", undefined, "wide");
  heads.forEach(([text, kind]) => head.append(node("th", text, kind)));
  made.append(head, ...rows);
  box.append(made);
  return box;
}
function row(cells, kind) {
  const made = node("tr", undefined, kind);
  cells.forEach(([text, of]) => { const cell = node("td", undefined, of); cell.append(text); made.append(cell); });
  return made;
}
function stages(box, found) {
  const rows = found.map(s => {
    const most = Math.max(s.most, s.done), least = Math.max(s.least, s.done);
    const part = s.state === "done" ? 1 : most ? Math.min(1, 2 * s.done / (least + most)) : 0;
    const meter = node("div", undefined, "meter"), bar = node("div");
    bar.style.width = 100 * part + "%";
    meter.append(bar);
    const many = s.state === "done" ? s.done : !most ? (s.state === "to come" ? "" : s.done) :
      s.done + " of " + (least === most ? most : "about " + rounded((least + most) / 2));
    const word = {"under way": "now", "to come": ""}[s.state] ?? s.state;
    return row([[s.name], [meter], [String(many), "n"], [word]], {"under way": "now", "to come": "later"}[s.state]);
  });
  box.replaceChildren(table([["experiment"], [""], ["runs", "n"], [""]], rows));
}
function outcomes(box, found) {
  const ends = ["ok", "diverged", "capped", "pruned", "error"];
  const rows = found.map(o => row([[o.experiment], ...ends.map(end => [String(o[end]), "n" +
    (!o[end] ? " zero" : end === "error" ? " bad" : "")]), [String(o.runs), "n"]]));
  box.replaceChildren(table([["experiment"], ...ends.map(end => [end, "n"]), ["all", "n"]], rows));
}
function best(box, found) {
  box.replaceChildren(...found.map((t, i) => {
    const made = node("details"), rows = t.cells.map(c => row([[c.optimizer], [number(c.batch), "n"],
      [number(c.lr), "n"], [number(c.value), "n"], [c.seeds > 1 ? number(c.least) + " to " + number(c.most) : "", "n"],
      [String(c.seeds), "n"], [String(c.rates), "n"]]));
    made.open = open.has(t.setting) || (i === 0 && wide && !open.has("closed " + t.setting));
    made.addEventListener("toggle", () => {
      open[made.open ? "add" : "delete"](t.setting);
      open[made.open ? "delete" : "add"]("closed " + t.setting);
    });
    made.append(node("summary", t.setting), table([["optimizer"], ["batch", "n"], ["best rate", "n"], [t.measure, "n"],
      ["over seeds", "n"], ["seeds", "n"], ["rates tried", "n"]], rows));
    return made;
  }));
}
function duration(seconds) {
  const s = Math.round(seconds);
  return s < 120 ? s + " s" : s < 7200 ? Math.round(s / 60) + " min" : (s / 3600).toFixed(1) + " h";
}
function state(s) {
  if (!s.progress) return s.runs ? "not under way, or by an older version" : "waiting for the first run";
  if (s.progress.ended) return "ended " + duration(s.silent_s) + " ago";
  if (s.silent_s < 90) return "under way";
  return "nothing heard for " + duration(s.silent_s) + ": a long run, or it was stopped";
}
async function look() {
  let found;
  try { found = await (await fetch("status.json", {cache: "no-store"})).json(); }
  catch { $("state").textContent = "allgrad study watch has ended"; $("state").className = "bad"; return; }
  const p = found.progress, put_text = (box, text) => { box.textContent = text; };
  document.title = found.directory;
  put("title", found.directory, put_text);
  put("state", state(found), put_text);
  $("state").className = p && !p.ended && found.silent_s >= 90 ? "bad" : "";
  put("line", p && !p.ended ? p.line : found.runs.toLocaleString("en") + " runs", put_text);
  $("report").hidden = !found.files.includes("report.html");
  put("stages", p ? p.stages : [], stages);
  $("progress").hidden = !p || !p.stages.length;
  put("outcomes", found.outcomes, outcomes);
  put("errors", found.errors, (box, errors) =>
    box.replaceChildren(...errors.map(([text, n]) => node("p", n + " runs: " + text, "bad"))));
  put("best", found.tables, best);
  put("figure", found.figure, (box, drawn) => { box.innerHTML = drawn; });
  put("caption", found.figure_of, put_text);
  $("drawn").hidden = !found.figure;
  $("rates").hidden = !found.tables.length;
  put("files", found.files, (box, names) => box.replaceChildren(...names.flatMap(name => {
    const link = node("a", name);
    link.href = encodeURIComponent(name);
    return [link, " "];
  })));
  $("left").hidden = !found.files.length;
}
(async () => { for (;;) { await look(); await new Promise(done => setTimeout(done, 2000)); } })();
"""
PAGE = f"""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>A study</title><link rel="icon" href="data:,"><style>
{STYLE}</style></head><body><main>
<header><h1 id="title"></h1><span><span id="state">asking</span>
<a id="report" href="report.html" hidden>report.html</a></span></header>
<p id="line" aria-live="polite"></p>
<div class="columns"><section>
<div id="drawn" hidden><h2>Steps against batch size, so far</h2>
<figure><div id="figure"></div>
<figcaption><span id="caption"></span>. Each point is the best learning rate so far: the mean over its seeds, the
bar from the least to the most; hollow: fewer than 3 seeds. Along the dashed line twice the batch takes half the
steps.</figcaption></figure></div>
<div id="rates" hidden><h2>Best learning rates so far</h2><div id="best"></div></div>
</section><section>
<div id="progress" hidden><h2>Experiments</h2><div id="stages"></div></div>
<h2>Runs by outcome</h2><div id="outcomes"></div><div id="errors"></div>
<div id="left" hidden><h2>Files</h2><p id="files" class="note"></p></div>
</section></div>
</main><script>
{SCRIPT}</script></body></html>
"""
