// What the members of a cluster are told to do: the newest version, its change, and those before with what differs.

import { h, replace } from '../dom.js';
import { get, path, post, put, query, Refused } from '../api.js';
import { confirm } from '../dialog.js';
import { field, form } from '../form.js';
import { live } from '../live.js';
import { done } from '../notice.js';
import { button, empty, heading, link, section, table } from '../parts.js';
import { moment } from '../time.js';

export async function configuration({ parameters, may, signal, show }) {
  const place = path`/clusters/${parameters.id}`;
  const edit = h('div', {});
  const history = h('div', {});
  const differs = h('div', { 'aria-live': 'polite' });
  const cluster = await get(place, signal);
  const again = { now: () => {} };
  const open = async () => {
    const newest = await get(`${place}/configuration`, signal);
    replace(edit, editor(place, newest, () => (replace(edit), again.now())));
    edit.querySelector('textarea').focus();
  };
  const change = may('operator') && button('Change', open, { kind: 'primary', key: 'change' });
  show(
    h('p', { class: 'crumbs' }, link(cluster.name, `#/clusters/${encodeURIComponent(cluster.id)}`)),
    heading(`Configuration of ${cluster.name}`, change),
    h('p', { class: 'lead' }, 'A key that is absent leaves what a member’s own file says. Members apply a version within seconds, whole or not at all.'),
    edit,
    history,
    differs,
  );
  const load = async () => ({ newest: await get(`${place}/configuration`, signal), versions: await get(`${place}/configuration/history`, signal) });
  again.now = await live(signal, load, ({ newest, versions }) => {
    const act = { may, place, newest, differs, again };
    replace(history, newest.version === 0 ? empty('No version yet', 'Members run what their own files say. Change it to tell all of them something else.') : [
      section(`Version ${newest.version}, which is the newest`, h('pre', { tabindex: '0', 'aria-label': 'The document' }, JSON.stringify(newest.document, null, 2))),
      section('Versions', table('Versions, newest first', ['Version', 'When', 'Who', 'Comment', 'Actions'], versions.map((version) => row(version, act)))),
    ]);
  });
}

function editor(place, newest, close) {
  const fields = [
    field({ name: 'document', label: 'Document', required: true, rows: 14, value: JSON.stringify(newest.document, null, 2), hint: 'JSON, with the sections proxy and scheduler.' }),
    field({ name: 'comment', label: 'Comment', hint: 'What it is for.', autocomplete: 'off' }),
  ];
  const submit = async ({ document: text, comment }) => {
    const made = await put(`${place}/configuration`, { replaces: newest.version, comment, document: parse(text) }).catch((error) => {
      throw atDocument(error);
    });
    done(`Version ${made.version} is the newest.`);
    close();
    document.querySelector('h1').focus();
  };
  const others = [button('Cancel', close)];
  return h('div', { class: 'card' }, form({ fields, action: 'Make the version', submit, others, label: 'A new version' }));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Refused(422, '', [{ field: 'document', message: `This is not JSON: ${error.message}` }]);
  }
}

/// All that is wrong in the document is said at its one field, each with its key.
function atDocument(error) {
  const inside = (error.errors ?? []).filter((one) => one.field.startsWith('document.'));
  if (inside.length === 0) return error;
  const message = inside.map((one) => `at ${one.field.slice('document.'.length)}: ${one.message}`).join('; ');
  return new Refused(error.status, error.message, [{ field: 'document', message }, ...error.errors.filter((one) => !inside.includes(one))]);
}

function row(version, act) {
  const isNewest = version.version === act.newest.version;
  const one = (what, text, run) => button(text, run, { key: `${what}-${version.version}`, label: `${text}: version ${version.version}` });
  return [
    String(version.version),
    moment(version.created),
    version.author,
    version.comment,
    h('div', { class: 'actions' }, one('diff', 'What changed', () => showDiff(version.version, act)), !isNewest && act.may('operator') && one('back', 'Go back to it', () => back(version.version, act))),
  ];
}

async function showDiff(version, { place, differs }) {
  try {
    const changes = await get(`${place}/configuration/diff${query({ from: version - 1, to: version })}`);
    const value = (one) => (one === null ? h('span', { class: 'hint' }, 'absent') : h('code', {}, JSON.stringify(one)));
    const list = changes.length > 0 ? table('What changed', ['Key', 'Before', 'After'], changes.map((one) => [h('code', {}, one.path), value(one.from), value(one.to)])) : h('p', {}, 'Nothing differs.');
    replace(differs, section(`What version ${version} changed`, list));
  } catch (error) {
    replace(differs, section(`What version ${version} changed`, h('p', {}, error.message)));
  }
}

function back(version, { place, newest, again }) {
  confirm({
    title: `Go back to version ${version}?`,
    text: 'Its document becomes a new version. Nothing of the history is lost.',
    action: 'Go back',
    run: async () => {
      const made = await post(`${place}/configuration/roll-back`, { replaces: newest.version, to: version });
      done(`Version ${made.version} is the newest.`);
      again.now();
    },
  });
}
