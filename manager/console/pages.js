// Which pages there are, where, and for whom.

import { overview } from './pages/overview.js';
import { clusters } from './pages/clusters.js';
import { cluster } from './pages/cluster.js';
import { clusterForm } from './pages/cluster-form.js';
import { members } from './pages/members.js';
import { configuration } from './pages/configuration.js';
import { placement } from './pages/placement.js';
import { tokens } from './pages/tokens.js';
import { joinTokens } from './pages/join-tokens.js';
import { users } from './pages/users.js';
import { audit } from './pages/audit.js';
import { account } from './pages/account.js';
import { heading, link } from './parts.js';
import { h } from './dom.js';

/// `place` is what the menu leads to; a page without one is reached from the page that it is `under`.
const PAGES = [
  { pattern: '', place: '#/', title: 'Overview', show: overview },
  { pattern: 'clusters', place: '#/clusters', title: 'Clusters', show: clusters },
  { pattern: 'clusters/new', under: '#/clusters', title: 'Add a cluster', role: 'operator', show: clusterForm },
  { pattern: 'clusters/:id', under: '#/clusters', title: 'Cluster', show: cluster },
  { pattern: 'clusters/:id/edit', under: '#/clusters', title: 'Change a cluster', role: 'operator', show: clusterForm },
  { pattern: 'clusters/:id/members', under: '#/clusters', title: 'Members', show: members },
  { pattern: 'clusters/:id/configuration', under: '#/clusters', title: 'Configuration', show: configuration },
  { pattern: 'placement', place: '#/placement', title: 'Placement', show: placement },
  { pattern: 'tokens', place: '#/tokens', title: 'Tokens', show: tokens },
  { pattern: 'join-tokens', place: '#/join-tokens', title: 'Join tokens', role: 'operator', show: joinTokens },
  { pattern: 'users', place: '#/users', title: 'Users', role: 'admin', show: users },
  { pattern: 'audit', place: '#/audit', title: 'Audit', role: 'admin', show: audit },
  { pattern: 'account', place: '#/account', title: 'Account', show: account },
];

const ABSENT = {
  title: 'Not found',
  show: ({ show }) => show(heading('There is no such page'), h('p', {}, link('Go to the overview', '#/'))),
};

/// Pages of the menu for somebody with this role.
export function visible(role) {
  return PAGES.filter((page) => page.place && (!page.role || page.role === role || role === 'admin'));
}

/// The page of an address, and what its pattern's `:names` are there.
export function find(address) {
  const parts = address.split('/');
  for (const page of PAGES) {
    const pattern = page.pattern.split('/');
    if (pattern.length !== parts.length) continue;
    const parameters = {};
    const fits = pattern.every((part, at) => {
      if (!part.startsWith(':')) return part === parts[at];
      parameters[part.slice(1)] = decode(parts[at]);
      return parts[at] !== '';
    });
    if (fits) return { page, parameters };
  }
  return { page: ABSENT, parameters: {} };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
