"""What every HTML report is made of: the page, its style and its scripts."""

from __future__ import annotations

# plotly.js is packed: 1.9 MB instead of 4.7. A figure is drawn when it comes near the viewport: pages with many large
# timelines open at once. On touch screens a drag scrolls the page instead of zooming.
DRAW = """
const templates = $TEMPLATES;
const dark = matchMedia("(prefers-color-scheme: dark)"), printing = matchMedia("print");
const config = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  displayModeBar: matchMedia("(hover: hover)").matches && "hover", toImageButtonOptions: {format: "svg"},
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};
const drawn = new Set();
function draw(plot) {
  const figure = JSON.parse(plot.nextElementSibling.textContent);
  figure.layout.template = templates[dark.matches && !printing.matches ? "dark" : "light"];
  if (matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
  drawn.add(plot);
  return Plotly.react(plot, figure.data, figure.layout, config);
}
const packed = Uint8Array.from(atob("$PLOTLY"), c => c.charCodeAt(0));
const plots = [...document.querySelectorAll(".plot")];
const near = new IntersectionObserver(entries => entries.forEach(e => {
  if (e.isIntersecting) { near.unobserve(e.target); draw(e.target); }
}), {rootMargin: "1000px"});
new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text().then(source => {
  document.head.append(Object.assign(document.createElement("script"), {textContent: source}));
  plots.forEach(plot => near.observe(plot));
});
dark.addEventListener("change", () => drawn.forEach(draw));
printing.addEventListener("change", () => plots.forEach(draw));
"""

# Numbers are sorted as such, sizes and times by what they stand for; a second click turns the order round.
SORT = """
const units = {KiB: 1024, MiB: 1048576, GiB: 1073741824, us: 1e-6, ms: 1e-3};
const value = text => {
  const found = text.replace("\\u2212", "-").replaceAll(",", "").match(/^([-+]?[\\d.]+)(?: (\\S+))?$/);
  return found ? found[1] * (units[found[2]] ?? 1) : null;
};
const compare = (a, b) => {
  const [x, y] = [value(a), value(b)];
  return x !== null && y !== null ? x - y : x !== null ? -1 : y !== null ? 1 : a.localeCompare(b);
};
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.querySelectorAll("th")], body = table.tBodies[0], rows = [...body.rows];
  heads.forEach((head, i) => head.firstChild.addEventListener("click", () => {
    const up = head.ariaSort !== "ascending";
    heads.forEach(h => { h.ariaSort = null; });
    head.ariaSort = up ? "ascending" : "descending";
    rows.sort((a, b) => (up ? 1 : -1) * compare(a.cells[i].textContent, b.cells[i].textContent));
    body.append(...rows);
  }));
  table.parentElement.previousElementSibling.addEventListener("input", event => {
    const words = event.target.value.toLowerCase().split(" ");
    rows.forEach(row => { row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)); });
  });
});
"""

STYLE = """
:root { color-scheme: light dark; --page: #f7f8f9; --card: #fff; --text: #1f2430; --dim: #59616d; --line: #e1e4e8;
  --link: #2358c8; --stripe: #f7f8f9; --good: #087a49; --fair: #8a6a00; --bad: #b03606; }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --card: #181d23; --text: #e4e7ec; --dim: #a2abb8;
  --line: #2a313b; --link: #8ab0ff; --stripe: #1c2229; --good: #3ecf8e; --fair: #e0b93a; --bad: #ff8a5c; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 $FONT;
  font-feature-settings: "calt" 0; }
header, .frame { max-width: 1320px; margin: 0 auto; padding: 0 2rem; }
header { padding-top: 2.25rem; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.35rem; font-weight: 650;
  overflow-wrap: anywhere; }
.subtitle { color: var(--dim); margin: 0; max-width: 46rem; }
dl { display: flex; flex-wrap: wrap; gap: 0.7rem 2.25rem; margin: 1.4rem 0 0; padding: 0.85rem 0;
  border: solid var(--line); border-width: 1px 0; }
dl div { min-width: 0; }
dt { color: var(--dim); font-size: 0.75rem; }
dd { margin: 0; font-size: 0.875rem; font-weight: 550; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.frame { display: flex; gap: 2.5rem; align-items: flex-start; padding-bottom: 4rem; }
main { flex: 1; min-width: 0; }
nav { position: sticky; top: 0; flex: 0 0 11.5rem; padding-top: 2.4rem; max-height: 100vh; overflow-y: auto; }
nav ol { list-style: none; margin: 0; padding: 0; border-left: 1px solid var(--line); }
nav a { display: block; padding: 0.28rem 0 0.28rem 0.9rem; color: var(--dim); font-size: 0.8125rem; line-height: 1.35;
  text-decoration: none; }
nav a:hover, nav a:focus-visible { color: var(--link); }
section { padding-top: 2rem; }
.under { padding-top: 1.25rem; }
h2 { font-size: 1.2rem; line-height: 1.3; letter-spacing: -0.01em; margin: 0 0 0.3rem; font-weight: 620; }
h3 { font-size: 1rem; line-height: 1.35; margin: 0 0 0.3rem; font-weight: 600; }
p { margin: 0 0 0.7rem; max-width: 46rem; color: var(--dim); font-size: 0.9375rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem 0.9rem 0.4rem;
  margin-top: 0.9rem; }
.wide { overflow-x: auto; padding: 0; }
pre { margin: 0; padding: 1rem 1.1rem; font: 0.8125rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 550; color: var(--dim); font-size: 0.8125rem; vertical-align: bottom; }
th, td { padding: 0.42rem 0.95rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child { white-space: normal; min-width: 9.5rem; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: var(--stripe); }
.n { text-align: right; }
td.t { white-space: normal; min-width: 13rem; overflow-wrap: anywhere; }
.badge { font-weight: 600; font-size: 0.8125rem; white-space: nowrap; }
.badge::before { content: ""; display: inline-block; width: 0.55rem; height: 0.55rem; margin-right: 0.45rem;
  border-radius: 50%; background: currentColor; }
.good { color: var(--good); } .fair { color: var(--fair); } .bad { color: var(--bad); } .plain { color: var(--dim); }
.bad::before { border-radius: 1px; } .fair::before { transform: rotate(45deg); border-radius: 1px; }
.tall { max-height: 85vh; overflow-y: auto; }
.sortable th { position: sticky; top: 0; background: var(--card); box-shadow: 0 1px var(--line); border: 0;
  padding: 0; }
.sortable button { all: unset; box-sizing: border-box; cursor: pointer; width: 100%; padding: 0.5rem 0.8rem; }
.sortable button:hover, .sortable button:focus-visible, [aria-sort] button { color: var(--link); }
[aria-sort=ascending] button::after { content: " \\2191"; } [aria-sort=descending] button::after { content: " \\2193"; }
.sortable td { padding: 0.36rem 0.8rem; }
input { font: inherit; font-size: 0.875rem; width: 100%; max-width: 24rem; margin-top: 0.5rem; padding: 0.45rem 0.75rem;
  color: var(--text); background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
.plot { width: 100%; }
.panels { display: flex; flex-wrap: wrap; gap: 0 0.9rem; }
.panels figure { flex-grow: 1; min-width: 0; max-width: 100%; margin-bottom: 0; }
figure { margin: 0; }
figcaption p { font-size: 0.8125rem; margin: 0.4rem 0 0.5rem; }
.drawn { overflow-x: auto; }
.plot .modebar-container { top: -3rem !important; }
@media (min-width: 1001px) { td:first-child { min-width: 13rem; } }
@media (max-width: 1000px) {
  .frame { display: block; }
  html { scroll-padding-top: 3.2rem; }
  nav { padding: 0; margin: 1rem -2rem 0; background: var(--page); border-bottom: 1px solid var(--line); z-index: 5; }
  nav ol { display: flex; gap: 1.25rem; overflow-x: auto; border: 0; padding: 0 2rem; scrollbar-width: none; }
  nav a { padding: 0.7rem 0; white-space: nowrap; }
}
@media (max-width: 600px) {
  header, .frame { padding-left: 1rem; padding-right: 1rem; }
  header { padding-top: 1.4rem; }
  h1 { font-size: 1.4rem; }
  dl { gap: 0.6rem 1.5rem; }
  nav { margin: 0.5rem -1rem 0; }
  nav ol { padding: 0 1rem; }
  .card { margin-left: -0.5rem; margin-right: -0.5rem; padding: 0.6rem 0.3rem 0.2rem; }
  .wide { padding: 0; }
  th, td { padding: 0.4rem 0.6rem; }
}
@media print { nav { display: none; } .card { break-inside: avoid; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:">
<meta name="generator" content="chunkflow-sim">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
<dl>{facts}</dl>
</header>
<div class="frame">
{contents}
<main>
{sections}
</main>
</div>
{scripts}
</body>
</html>
"""
