// The trends page: charts that are drawn when they come into view, and what a pointer is told.
const MARGIN = 90, EVERY_POINT = 80;
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const shownVariants = new Set(data.variants.keys());
const baselineOf = new Map();
for (const {run, name} of data.baselines) baselineOf.set(run, [...(baselineOf.get(run) ?? []), name]);
const scheme = () => (dark.matches ? 'dark' : 'light');
const charts = [];

// Rows of the series that are shown: a stretch of a line ends where the key of comparison changes.
function rowsOf(metric) {
  const rows = [];
  for (const series of metric.series) {
    if (!shownVariants.has(series.variant)) continue;
    const [color, dash] = [data.styles[series.variant][0], Math.floor(series.variant / 8)];
    let stretch = 0;
    series.run.forEach((run, at) => {
      if (at && series.key[at] !== series.key[at - 1]) stretch += 1;
      const alone = series.key[at] !== series.key[at - 1] && series.key[at] !== series.key[at + 1];
      rows.push({
        x: run, y: series.value[at], low: series.low[at], high: series.high[at], c: color, d: dash,
        s: `${series.variant}.${stretch}`, a: alone && series.low[at] !== null,
        p: alone || series.run.length <= EVERY_POINT, b: baselineOf.has(run),
      });
    });
  }
  return rows;
}

// From the least end of an interval to the greatest; said, since a layer without rows has none.
function domainOf(rows) {
  const ends = rows.flatMap(row => [row.y, row.low ?? row.y, row.high ?? row.y]);
  const low = ends.reduce((a, b) => Math.min(a, b), Infinity), high = ends.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!ends.length) return [0, 1];
  return low === high ? [low - Math.abs(low) / 10 - (low ? 0 : 1), high + Math.abs(high) / 10 + (high ? 0 : 1)] : [low, high];
}

// Places of the runs that the axis names, and the names: days, built here from digits alone.
function ticks(width) {
  const most = Math.max(2, Math.min(count, Math.floor(width / MARGIN)));
  const places = [...new Set(Array.from({length: most}, (_, i) => Math.round((i * (count - 1)) / Math.max(1, most - 1))))];
  const years = places.map(at => /^\d{4}/.exec(runs.started[at])?.[0] ?? '');
  const several = new Set(years).size > 1;
  return {places, words: places.map((at, i) => (several && years[i] !== years[i - 1] ? `${day(at)} ${years[i]}` : day(at)))};
}

function specOf(metric, width) {
  const spec = structuredClone(data.specs[metric.log ? 1 : 0]);
  const {places, words} = ticks(width);
  const pad = Math.max(0.5, count * 0.012);
  spec.width = width;
  spec.autosize = {type: 'fit', contains: 'padding'};
  const rows = rowsOf(metric);
  spec.datasets = {
    rows,
    breaks: metric.breaks.map(([run]) => ({x: run - 0.5})),
    marks: data.baselines.map(({run}) => ({x: run})),
  };
  for (const layer of spec.layer) {
    const {x, y} = layer.encoding;
    x.scale = {domain: [-pad, count - 1 + pad], nice: false, zero: false};
    x.axis = {values: places, labelExpr: `${JSON.stringify(words)}[indexof(${JSON.stringify(places)}, datum.value)]`};
    if (y) y.scale.domain = domainOf(rows);
    if (y) y.axis = {format: {accuracy: '.0%', share: '.0%', bytes: '.3s'}[metric.form] ?? ''};
  }
  return spec;
}

// ------------------------------------------------------------------ one chart

function chartIn(figure) {
  const metric = data.metrics[Number(figure.dataset.metric)], plot = figure.querySelector('.plot');
  const host = make('div'), spot = make('div', {class: 'spot', hidden: ''});
  const tip = make('div', {class: 'tip', role: 'status', hidden: ''});
  plot.append(host, spot, tip);
  plot.tabIndex = 0;
  plot.setAttribute('role', 'group');
  plot.setAttribute('aria-roledescription', 'chart');
  plot.setAttribute('aria-label', `${metric.title} over ${count} runs. Left and right move between runs, up and down between variants, Enter opens the run.`);
  const chart = {metric, plot, host, spot, tip, view: null, at: null, seen: false, turn: 0};
  plot.addEventListener('pointermove', event => point(chart, nearest(chart, event)));
  plot.addEventListener('pointerleave', () => point(chart, null));
  plot.addEventListener('blur', () => point(chart, null));
  plot.addEventListener('click', event => open(chart, nearest(chart, event)));
  plot.addEventListener('keydown', event => press(chart, event));
  const breaks = figure.querySelector('.breaks');
  if (breaks) tellBreaks(breaks, metric);
  return chart;
}

function tellBreaks(place, metric) {
  place.append('The lines break where something else was measured: ');
  metric.breaks.slice(0, 6).forEach(([run, what], at) => {
    place.append(at ? '; ' : '', bdi(what), ' from ', runLink(run), ' on');
  });
  const more = metric.breaks.length - 6;
  place.append(more > 0 ? `; and ${more} more times.` : '.');
}

async function draw(chart) {
  const turn = ++chart.turn, width = Math.max(240, chart.plot.clientWidth);
  point(chart, null);
  const made = await window.vegaEmbed(chart.host, specOf(chart.metric, width), {
    ast: true, actions: false, renderer: 'svg', tooltip: false, config: data.configs[scheme()],
  });
  if (turn !== chart.turn) return void made.finalize();
  chart.finalize?.();
  Object.assign(chart, {view: made.view, finalize: () => made.finalize()});
  chart.plot.classList.add('live');
  // What is drawn is told in words by the tooltip and by the table; the shapes alone say nothing.
  chart.host.setAttribute('aria-hidden', 'true');
}

const visible = chart => chart.metric.series.filter(series => shownVariants.has(series.variant));

// Where the scales begin, in pixels of the plot.
function corner(chart) {
  const box = chart.host.querySelector('svg').getBoundingClientRect(), plot = chart.plot.getBoundingClientRect();
  const [left, top] = chart.view.origin(), padding = chart.view.padding();
  return {left: box.left - plot.left + left + padding.left, top: box.top - plot.top + top + padding.top};
}

// Where a value is drawn, in pixels of the plot.
function where(chart, series, at) {
  const {left, top} = corner(chart);
  return {x: left + chart.view.scale('x')(series.run[at]), y: top + chart.view.scale('y')(series.value[at])};
}

// The value that a pointer means: of the nearest run that has one, the nearest line's.
function nearest(chart, event) {
  if (!chart.view) return null;
  const plot = chart.plot.getBoundingClientRect();
  const at = {x: event.clientX - plot.left, y: event.clientY - plot.top};
  let best = null, least = Infinity;
  const run = chart.view.scale('x').invert(at.x - corner(chart).left);
  for (const series of visible(chart)) {
    const place = closest(series.run, run), seen = where(chart, series, place);
    const distance = 4 * Math.abs(seen.x - at.x) + Math.abs(seen.y - at.y);
    if (distance < least) [best, least] = [{series, place}, distance];
  }
  return best;
}

// The place of the number in a rising list that is nearest to a value.
function closest(list, value) {
  let low = 0, high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low && value - list[low - 1] < list[low] - value ? low - 1 : low;
}

function point(chart, at) {
  chart.at = at;
  chart.spot.hidden = chart.tip.hidden = at === null;
  if (at === null) return;
  const seen = where(chart, at.series, at.place);
  chart.spot.style.left = `${seen.x}px`;
  chart.spot.style.top = `${seen.y}px`;
  chart.spot.style.borderColor = data.colors[scheme()][data.styles[at.series.variant][0]];
  chart.tip.replaceChildren(...told(chart.metric, at));
  const {offsetWidth: width, offsetHeight: height} = chart.tip, room = chart.plot.clientWidth;
  const left = seen.x + 16 + width > room ? seen.x - 16 - width : seen.x + 16;
  chart.tip.style.left = `${Math.max(0, Math.min(left, room - width))}px`;
  // Beside the value where there is room, else under it: a finger must not hide what it asked for.
  const narrow = left < 0;
  chart.tip.style.top = `${narrow ? seen.y + 18 : Math.max(0, seen.y - height / 2)}px`;
}

function told(metric, {series, place}) {
  const run = series.run[place], ends = interval(metric, series, place);
  const lines = [
    make('div', {}, bdi(data.variants[series.variant], 'name')),
    make('div', {}, make('span', {class: 'value'}, shown(metric, series.value[place])), ends ? make('span', {class: 'muted'}, `  ${ends}`) : ''),
    make('div', {class: 'muted'}, bdi(runs.id[run]), `, ${day(run, true)}`),
  ];
  const revision = text(runs.git[run]);
  if (revision) lines.push(make('div', {}, 'git ', bdi(revision)));
  for (const name of baselineOf.get(run) ?? []) lines.push(make('div', {}, 'baseline ', bdi(name)));
  if (runs.changed[run].length) {
    const list = make('ul', {}, ...runs.changed[run].map(line => make('li', {}, bdi(text(line)))));
    lines.push(make('div', {class: 'muted'}, 'changed since the run before:'), list);
  }
  return lines;
}

function open(chart, at) {
  if (at) window.location.href = runs.url[at.series.run[at.place]];
}

function press(chart, event) {
  if (!chart.view || !visible(chart).length) return;
  const list = visible(chart), key = event.key;
  if (key === 'Enter') return open(chart, chart.at);
  if (key === 'Escape') return point(chart, null);
  if (!['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown', 'Home', 'End'].includes(key)) return;
  event.preventDefault();
  let {series, place} = chart.at ?? {series: list[0], place: list[0].run.length};
  if (key === 'ArrowLeft') place -= 1;
  if (key === 'ArrowRight') place += 1;
  if (key === 'Home') place = 0;
  if (key === 'End') place = series.run.length - 1;
  if (key === 'ArrowUp' || key === 'ArrowDown') {
    const run = series.run[Math.min(place, series.run.length - 1)];
    const step = key === 'ArrowUp' ? list.length - 1 : 1;
    series = list[(list.indexOf(series) + step) % list.length];
    place = closest(series.run, run);
  }
  point(chart, {series, place: Math.max(0, Math.min(place, series.run.length - 1))});
}

// ------------------------------------------------------------------ variants, runs, the page

function swatch(at) {
  const [color, dash] = data.styles[at];
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  svg.setAttribute('viewBox', '0 0 26 12');
  svg.setAttribute('aria-hidden', 'true');
  line.setAttribute('d', 'M1 6H25');
  line.setAttribute('stroke-width', '3');
  if (at >= 8) line.setAttribute('stroke-dasharray', dash.join(' '));
  line.dataset.color = String(color);
  svg.append(line);
  return svg;
}

function colorSwatches() {
  for (const line of document.querySelectorAll('[data-color]'))
    line.setAttribute('stroke', data.colors[scheme()][Number(line.dataset.color)]);
}

function makePicks() {
  const picks = document.getElementById('picks');
  data.variants.forEach((name, at) => {
    const box = make('input', {type: 'checkbox', checked: ''});
    box.addEventListener('change', () => {
      if (box.checked) shownVariants.add(at);
      else shownVariants.delete(at);
      redraw();
    });
    picks.append(make('label', {class: 'pick'}, box, swatch(at), bdi(name)));
  });
  picks.hidden = false;
  colorSwatches();
}

function redraw() {
  for (const chart of charts) if (chart.seen) draw(chart);
}

function line(at) {
  const first = make('td', {}, runLink(at));
  for (const name of baselineOf.get(at) ?? []) first.append(' ', make('span', {class: 'tag plain'}, 'baseline ', bdi(name)));
  first.append(make('div', {class: 'small muted'}, day(at, true)));
  const second = make('td', {}, badge(text(runs.tone[at]), text(runs.status[at])), make('div', {class: 'small', dir: 'auto'}, text(runs.sentence[at])));
  const third = make('td', {class: 'small'});
  if (text(runs.git[at])) third.append(make('div', {}, 'git ', bdi(text(runs.git[at]))));
  if (runs.changed[at].length) third.append(make('ul', {class: 'changed'}, ...runs.changed[at].map(place => make('li', {}, bdi(text(place))))));
  if (at) {
    const hash = [at - 1, at].map(each => encodeURIComponent(runs.id[each])).join('..');
    third.append(make('a', {class: 'muted', href: `compare.html#${hash}`}, 'compare with the run before'));
  }
  return make('tr', {}, first, second, third);
}

const more = document.getElementById('more');
if (more) {
  more.hidden = false;
  more.addEventListener('click', () => {
    const lines = [];
    for (let at = count - 1 - data.listed; at >= 0; at -= 1) lines.push(line(at));
    document.getElementById('lines').append(...lines);
    more.remove();
    lines[0]?.querySelector('a').focus();
  });
}

const watcher = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const chart = charts.find(each => each.plot === entry.target);
    if (entry.isIntersecting && !chart.seen) {
      chart.seen = true;
      draw(chart);
    }
  }
}, {rootMargin: '400px'});
for (const figure of document.querySelectorAll('.trend')) {
  const chart = chartIn(figure);
  charts.push(chart);
  watcher.observe(chart.plot);
}
if (charts.length) makePicks();
dark.addEventListener('change', () => {
  colorSwatches();
  redraw();
});
let width = document.documentElement.clientWidth, waiting;
window.addEventListener('resize', () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (width !== document.documentElement.clientWidth) redraw();
    width = document.documentElement.clientWidth;
  }, 150);
});
