// The comparing page: the two runs stand after the '#' of the address, so that a link lasts.
const old = document.getElementById('old'), now = document.getElementById('new');
const found = document.getElementById('found'), problem = document.getElementById('problem');
const placeOf = new Map(runs.id.map((id, at) => [id, at]));
const baselineOf = new Map(data.baselines.map(({run, name}) => [run, name]));

function option(at) {
  const name = baselineOf.has(at) ? ` · baseline ${baselineOf.get(at)}` : '';
  return make('option', {value: String(at)}, `${runs.id[at]} · ${text(runs.status[at])}${name}`);
}

const hashOf = (one, other) => `#${encodeURIComponent(runs.id[one])}..${encodeURIComponent(runs.id[other])}`;

// The newest run against the baseline, else against the run before.
function usual() {
  const newest = count - 1, promoted = data.baselines.find(({run}) => run !== newest);
  return [promoted?.run ?? Math.max(0, newest - 1), newest];
}

// What the address asks for; ids that are not here are said to be not here.
function wanted() {
  const words = window.location.hash.slice(1);
  if (!words) return usual();
  let ids;
  try {
    ids = words.split('..').map(decodeURIComponent);
  } catch {
    ids = [words];
  }
  const places = ids.map(id => placeOf.get(id));
  if (places.length === 2 && !places.includes(undefined)) return places;
  const missing = ids.filter((_, at) => places[at] === undefined);
  const what = missing.length ? `This suite has no run ${missing.map(id => id.slice(0, 80)).join(' and no run ')}.` : 'The address names one run.';
  problem.textContent = `${what} It must end in #OLD..NEW, two runs' ids; here are others.`;
  problem.hidden = false;
  return usual();
}

function show() {
  problem.hidden = true;
  const [one, other] = wanted();
  old.value = String(one);
  now.value = String(other);
  document.title = `${runs.id[one]} → ${runs.id[other]} · evalkit`;
  found.replaceChildren(sides(one, other), changed(one, other), ...data.metrics.map(metric => values(metric, one, other)).filter(Boolean));
}

function choose() {
  window.location.hash = hashOf(Number(old.value), Number(now.value));
}

// ------------------------------------------------------------------ what is shown

function section(title, ...children) {
  return make('section', {}, make('h2', {}, ...title), ...children);
}

function card(label, at) {
  const lines = [make('h3', {}, label, runLink(at)), badge(text(runs.tone[at]), text(runs.status[at]))];
  lines.push(make('p', {class: 'small', dir: 'auto'}, text(runs.sentence[at])));
  const git = text(runs.git[at]);
  const facts = [day(at, true), ...(git ? [`git ${git}`] : []), ...(baselineOf.has(at) ? [`baseline ${baselineOf.get(at)}`] : [])];
  lines.push(make('div', {class: 'small muted'}, ...facts.flatMap((fact, i) => [i ? ' · ' : '', bdi(fact)])));
  return make('div', {class: 'card side'}, ...lines);
}

function sides(one, other) {
  const command = `evalkit compare ${runs.id[one]} ${runs.id[other]}`;
  return section(
    ['The two'],
    make('div', {class: 'cards'}, card('Old: ', one), card('New: ', other)),
    make('p', {class: 'pair-note'},
      'The values below stand side by side, each with its own 95 % interval; they are not paired, and intervals that overlap may still differ. ',
      make('code', {}, command),
      ' compares the same two document by document, with the interval of each difference.'),
  );
}

function changed(one, other) {
  const groups = new Map();
  for (const [name, column] of Object.entries(data.facts.columns)) {
    if (column[one] === column[other]) continue;
    const [group, key] = [name.slice(0, name.indexOf(': ')), name.slice(name.indexOf(': ') + 2)];
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push([key, column[one], column[other]]);
  }
  const titles = {git: 'Code', packages: 'Packages', provenance: 'Machine and data', arguments: 'Arguments', suite: 'The suite’s settings'};
  const cards = [...groups].map(([group, rows]) => make('div', {class: 'card facts-changed'},
    make('h3', {}, titles[group] ?? group),
    make('dl', {}, ...rows.flatMap(([key, was, is]) => [make('dt', {}, bdi(key)), change(was, is)]))));
  const rest = data.facts.left_out ? [make('p', {class: 'small muted'}, `${data.facts.left_out} further settings are not kept on this page.`)] : [];
  const nothing = make('p', {class: 'hint'}, one === other ? 'This is one and the same run.' : 'Nothing that was recorded: the same code, packages, device, arguments and settings.');
  return section(['What changed beside the numbers'], cards.length ? make('div', {class: 'cards'}, ...cards) : nothing, ...rest);
}

function change(was, is) {
  const words = place => (place < 0 ? 'not recorded' : text(place));
  return make('dd', {}, bdi(words(was), 'was'), make('span', {class: 'arrow'}, ' → '), bdi(words(is)));
}

function values(metric, one, other) {
  const rows = metric.series.map(series => row(metric, series, one, other)).filter(Boolean);
  if (!rows.length) return null;
  const head = ['Variant', 'Old, 95 % interval', 'New, 95 % interval', 'New − old'].map((words, at) => make('th', at ? {scope: 'col', class: 'number'} : {scope: 'col'}, words));
  const differs = metric.breaks.filter(([run]) => Math.min(one, other) < run && run <= Math.max(one, other)).map(([, what]) => what);
  const told = differs.length ? ` Between the two runs what is measured changed: ${[...new Set(differs)].join('; ')}.` : '';
  return section(
    [bdi(metric.title)],
    make('p', {class: 'hint'}, bdi(metric.unit), `, ${metric.better} is better.${told}`),
    make('table', {class: 'sides'}, make('thead', {}, make('tr', {}, ...head)), make('tbody', {}, ...rows)),
  );
}

function row(metric, series, one, other) {
  const [first, second] = [series.run.indexOf(one), series.run.indexOf(other)];
  if (first < 0 && second < 0) return null;
  return make('tr', {},
    make('td', {}, bdi(data.variants[series.variant], 'name')),
    cell(metric, series, first, 'old'),
    cell(metric, series, second, 'new'),
    make('td', {class: 'number', 'data-label': 'new − old'}, verdictless(metric, series, first, second)));
}

function cell(metric, series, at, label) {
  if (at < 0) return make('td', {class: 'number muted', 'data-label': label}, 'not scored');
  const ends = interval(metric, series, at);
  return make('td', {class: 'number', 'data-label': label},
    make('div', {}, make('span', {class: 'value'}, shown(metric, series.value[at])), ends ? make('div', {class: 'small muted'}, ends) : ''));
}

// The difference, coloured by its direction alone: what it means is for the paired comparison.
function verdictless(metric, series, first, second) {
  if (first < 0 || second < 0) return make('span', {class: 'muted'}, '–');
  if (series.key[first] !== series.key[second]) return make('span', {class: 'muted'}, 'not comparable');
  const words = difference(metric, series.value[first], series.value[second]);
  return make('span', {class: words === 'equal' ? 'muted' : 'value'}, words);
}

if (count) {
  for (const select of [old, now]) {
    for (let at = count - 1; at >= 0; at -= 1) select.append(option(at));
    select.addEventListener('change', choose);
  }
  document.getElementById('swap').addEventListener('click', () => {
    [old.value, now.value] = [now.value, old.value];
    choose();
  });
  document.getElementById('choice').hidden = false;
  window.addEventListener('hashchange', show);
  show();
}
