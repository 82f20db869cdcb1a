"""The style sheet of report.html: one column, light and dark, on paper as on a screen."""

STYLE = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #595959; --line: #d5d5d5; --paper: #ffffff; --tint: #f3f5f7;
  --pass: #00664b; --fail: #a63d00; --inconclusive: #6b5900; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8a8a8; --line: #444444; --paper: #16181b;
  --tint: #22262b; --pass: #4fd0a5; --fail: #ff9a5c; --inconclusive: #e5c94b; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
a { color: inherit; }
.answer { background: var(--tint); border-radius: .5rem; padding: .25rem 1.25rem .75rem; }
.answer h2 { border: 0; margin: .75rem 0 .25rem; padding: 0; }
.answer p { font-size: 1.1rem; font-weight: 600; margin: .5rem 0; }
.question { font-style: italic; color: var(--soft); }
.badge { font-size: .75rem; font-weight: 700; white-space: nowrap; border: 1px solid; border-radius: .25rem;
  padding: 0 .3rem; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .inconclusive { color: var(--inconclusive); }
.file { color: var(--soft); font-size: .8rem; font-weight: 400; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; margin: .5rem 0; }
th { text-align: left; }
th, td { vertical-align: top; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
.n { text-align: right; }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
td.w { white-space: nowrap; }
tr.flag td { background: var(--tint); font-weight: 600; }
tr.flag td:first-child { border-left: 3px solid var(--fail); }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: .25rem; }
figcaption { font-size: .875rem; color: var(--soft); margin-top: .25rem; }
summary { cursor: pointer; margin-top: .75rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .75rem; font-size: .8rem; color: var(--soft); }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--tint); padding: .5rem .75rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  :root { --ink: #000000; --soft: #444444; --paper: #ffffff; --tint: #f3f3f3; --pass: #00664b; --fail: #a63d00;
    --inconclusive: #6b5900; }
  main { max-width: none; padding: 0; } figure img { width: auto; } figure, tr { break-inside: avoid; }
  .wide { overflow: visible; } table { font-size: .65rem; } th, td { padding: .1rem .3rem; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
