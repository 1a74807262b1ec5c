// What there is, at a glance.

import { h } from '../dom.js';
import { get } from '../api.js';
import { live } from '../live.js';
import { badge, heading, link, section } from '../parts.js';
import { scopeText } from '../scope.js';
import { relative } from '../time.js';
import { lineText } from './audit.js';

/// Clusters that are shown; all are on their own page.
const CLUSTERS_SHOWN = 12;
const LINES_SHOWN = 6;
/// Tokens that end within this are told of, in milliseconds.
const SOON = 7 * 86_400_000;

export async function overview({ me, may, signal, show }) {
  const load = async () => {
    const [clusters, tokens, lines] = await Promise.all([
      get('/clusters', signal),
      get('/tokens', signal),
      may('admin') ? get(`/audit?count=${LINES_SHOWN}`, signal) : null,
    ]);
    return { clusters, tokens, lines };
  };
  await live(signal, load, ({ clusters, tokens, lines }) => {
    show(
      heading('Overview'),
      h('p', { class: 'lead' }, `Hello ${me.name}. Nodes and schedulers work without the manager: what you see here steers them, and is never on the way of a pull.`),
      h('div', { class: 'tiles' }, tiles(clusters, tokens)),
      section('Clusters', h('ul', { class: 'cards' }, clusters.slice(0, CLUSTERS_SHOWN).map(card)), more(clusters)),
      lines && section('Latest changes', h('ul', { class: 'lines' }, lines.map(line)), h('p', {}, link('All of the audit', '#/audit'))),
    );
  });
}

function tiles(clusters, tokens) {
  const home = clusters.find((cluster) => cluster.isDefault);
  const now = Date.now();
  const good = tokens.filter((token) => token.expires > now);
  const soon = good.filter((token) => token.expires < now + SOON).length;
  return [
    tile('Clusters', clusters.length, '#/clusters', `${clusters.filter((cluster) => scopeText(cluster.scope).length > 0).length} with a scope`),
    tile('Default cluster', home ? home.name : 'none', home ? `#/clusters/${encodeURIComponent(home.id)}` : '#/clusters', home ? 'for nodes that fit nowhere else' : 'nodes that fit nowhere are refused'),
    tile('Your tokens', good.length, '#/tokens', soon ? `${soon} ${soon === 1 ? 'ends' : 'end'} within 7 days` : 'none ends within 7 days'),
  ];
}

function tile(name, value, href, note) {
  return h('a', { class: 'tile', href, 'data-key': `tile-${name}` }, h('span', { class: 'name' }, name), h('span', { class: 'value' }, value), h('span', { class: 'hint' }, note));
}

function card(cluster) {
  const scope = scopeText(cluster.scope);
  return h(
    'li',
    {},
    h('div', { class: 'row' }, link(cluster.name, `#/clusters/${encodeURIComponent(cluster.id)}`, 'strong'), cluster.isDefault && badge('default', 'good')),
    cluster.description && h('p', {}, cluster.description),
    h('p', { class: 'hint' }, scope.length > 0 ? scope.join(' · ') : cluster.isDefault ? 'For all nodes that fit nowhere else.' : 'No scope yet: no node is placed here.'),
  );
}

function more(clusters) {
  return clusters.length > CLUSTERS_SHOWN && h('p', {}, link(`All ${clusters.length} clusters`, '#/clusters'));
}

function line(one) {
  return h('li', {}, h('span', {}, lineText(one)), h('span', { class: 'hint' }, relative(one.at)));
}
