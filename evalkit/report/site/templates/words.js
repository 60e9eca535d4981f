// What both pages share: the data, elements, numbers in words. Texts become text, never markup.
const data = JSON.parse(document.getElementById('data').textContent);
const runs = data.runs, count = runs.id.length;
// Columns come without what follows from others: see metric_columns in columns.py.
runs.id.forEach((id, at) => (runs.url[at] ??= `${encodeURIComponent(id)}/index.html`));
for (const series of data.metrics.flatMap(metric => metric.series)) {
  if (typeof series.run === 'number') series.run = series.value.map((_, at) => series.run + at);
  const starts = series.key;
  let part = 0;
  series.key = series.value.map((_, at) => starts[part + 1]?.[0] <= at ? starts[++part][1] : starts[part][1]);
}
const text = place => data.texts[place];
const MINUS = '\u2212', MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split(' ');

// An element with attributes and children; a string becomes a text node.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const bdi = (words, name) => make('bdi', name ? {class: name} : {}, words);

function badge(tone, words) {
  const mark = {good: '\u2713', bad: '\u2715', warn: '!', plain: '\u2013'}[tone] ?? '';
  return make('span', {class: `badge ${tone}`}, make('span', {'aria-hidden': 'true'}, mark), make('span', {}, words));
}

// A link to a run's page; the address was made by evalkit from safe file names.
const runLink = at => make('a', {href: runs.url[at]}, bdi(runs.id[at], 'id'));

function day(at, long) {
  const found = /^(\d{4})-(\d\d)-(\d\d)T(\d\d:\d\d)/.exec(runs.started[at]);
  if (!found) return long ? runs.started[at] : String(at + 1);
  const [, year, month, date, time] = found;
  const words = `${Number(date)} ${MONTHS[Number(month) - 1]}`;
  return long ? `${words} ${year}, ${time} UTC` : words;
}

const signed = (value, words) => (value < 0 ? MINUS : '+') + words;

// Four significant digits, as everywhere in evalkit.
function figure(value) {
  const size = Math.abs(value);
  if (size >= 1e7 || (size < 1e-3 && size > 0)) return value.toExponential(3).replace(/-/g, MINUS);
  const digits = size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0;
  const words = size.toLocaleString('en-GB', {minimumFractionDigits: digits, maximumFractionDigits: digits});
  return value < 0 ? MINUS + words : words;
}

function bytes(value) {
  const size = Math.abs(value);
  for (const [unit, scale] of [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]])
    if (size >= scale) return `${(value / scale).toPrecision(3)} ${unit}`;
  return `${value} B`;
}

const percent = (value, digits = 1) => `${(value * 100).toFixed(digits).replace('-', MINUS)} %`;

function shown(metric, value) {
  if (metric.form === 'accuracy' || metric.form === 'share') return percent(value);
  return metric.form === 'bytes' ? bytes(value) : figure(value);
}

function interval(metric, series, at) {
  const low = series.low[at], high = series.high[at];
  return low === null || high === null ? '' : `${shown(metric, low)} to ${shown(metric, high)}`;
}

// New minus old in the metric's own manner; equal values are said to be equal.
function difference(metric, old, now) {
  if (old === now) return 'equal';
  const change = now - old, size = Math.abs(change);
  if (metric.form === 'accuracy' || metric.form === 'share') return signed(change, `${(size * 100).toFixed(2)} pp`);
  if (metric.form === 'ratio' || metric.form === 'bytes') {
    const ratio = Math.abs(now / old - 1) * 100;
    return signed(change, `${ratio.toFixed(ratio < 1 ? 3 : ratio < 10 ? 2 : 1)} %`);
  }
  return signed(change, figure(size));
}
