// Against two members that have really joined: node1, a peer, and scheduler1. Both refuse `scheduler.parents.countMax` of 32.

import assert from 'node:assert/strict';
import { ADMIN, URL_BASE, api, fieldSays, focused, inBrowser, person, sees, signedIn } from '../browser.js';

const home = async () => (await api('GET', '/clusters')).find((cluster) => cluster.isDefault);

inBrowser('who has joined is listed, with how it is and why it is there', { as: ADMIN, at: '#/clusters' }, async (page) => {
  const { name } = await home();
  await page.getByRole('link', { name, exact: true }).click();
  await page.getByRole('link', { name: 'Members' }).click();
  await page.getByRole('heading', { name: `Members of ${name}` }).waitFor();
  await sees(page, '2 members: 1 scheduler, 1 peer; all are heard of.');
  const node = page.getByRole('row', { name: /node1/ });
  await node.getByText('node1:4001').waitFor();
  await node.getByText('serving').waitFor();
  await node.getByText('its own file').waitFor();
  await node.getByText('here because').waitFor();
});

inBrowser('a configuration is changed, refused by members, and rolled back', { as: ADMIN, at: '' }, async (page) => {
  const { id, name } = await home();
  const text = (count) => JSON.stringify({ scheduler: { parents: { countMax: count } } });
  await page.goto(`${URL_BASE}/#/clusters/${id}/configuration`);
  await page.getByRole('heading', { name: 'No version yet' }).waitFor();
  await page.getByRole('button', { name: 'Change' }).click();
  await page.getByLabel('Document').waitFor();
  assert.equal(await focused(page), 'Document');
  const make = page.getByRole('button', { name: 'Make the version' });
  await page.getByLabel('Document').fill('{');
  await make.click();
  await fieldSays(page, 'Document', /This is not JSON/);
  await page.getByLabel('Document').fill('{"proxy": {"nothing": 1}}');
  await make.click();
  await fieldSays(page, 'Document', /nothing/);
  await page.getByLabel('Document').fill(text(16));
  await page.getByLabel('Comment').fill('fewer parents');
  await make.click();
  await page.getByRole('heading', { name: 'Version 1, which is the newest' }).waitFor();
  await page.getByRole('row', { name: /fewer parents/ }).getByText('admin').waitFor();

  const members = async () => {
    await page.goto(`${URL_BASE}/#/clusters/${id}/members`);
    await page.getByRole('heading', { name: `Members of ${name}` }).waitFor();
    return page.getByRole('row', { name: /scheduler1/ });
  };
  await (await members()).getByText('version 1', { exact: true }).waitFor();
  await api('PUT', `/clusters/${id}/configuration`, { replaces: 1, comment: 'too many', document: JSON.parse(text(32)) });
  await (await members()).getByText('refused version 2: 32 are too many here').waitFor();

  await page.goto(`${URL_BASE}/#/clusters/${id}/configuration`);
  await page.getByRole('button', { name: 'What changed: version 2' }).click();
  await page.getByRole('row', { name: /scheduler\.parents\.countMax 16 32/ }).waitFor();
  await page.getByRole('button', { name: 'Go back to it: version 1' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Go back' }).click();
  await page.getByRole('heading', { name: 'Version 3, which is the newest' }).waitFor();
  await sees(page, 'back to version 1');
  await (await members()).getByText('version 3', { exact: true }).waitFor();
});

inBrowser('who changed it meanwhile is not overwritten', { as: ADMIN, at: '' }, async (page) => {
  const { id } = await api('POST', '/clusters', { name: 'meanwhile' });
  await page.goto(`${URL_BASE}/#/clusters/${id}/configuration`);
  await page.getByRole('button', { name: 'Change' }).click();
  await page.getByLabel('Document').waitFor();
  await api('PUT', `/clusters/${id}/configuration`, { replaces: 0, document: {} });
  await page.getByRole('button', { name: 'Make the version' }).click();
  await page.getByRole('form', { name: 'A new version' }).locator('.failure, .error').filter({ hasText: /Version 0 is not the newest/ }).first().waitFor();
  assert.equal((await api('GET', `/clusters/${id}/configuration`)).version, 1);
});

inBrowser('a viewer sees the configuration and cannot change it', { at: '' }, async (page) => {
  const vito = await person('vito', 'viewer');
  await page.context().addCookies((await signedIn(vito.name, vito.password)).cookies);
  await page.goto(`${URL_BASE}/#/clusters/${(await home()).id}/configuration`);
  await page.reload();
  await page.getByRole('heading', { name: /which is the newest/ }).waitFor();
  assert.equal(await page.getByRole('button', { name: 'Change', exact: true }).count(), 0);
  assert.equal(await page.getByRole('button', { name: /Go back/ }).count(), 0);
});

inBrowser('a join token is made for a cluster, shown once, and removed', { as: ADMIN, at: '#/join-tokens' }, async (page) => {
  const { name } = await api('POST', '/clusters', { name: 'lima' });
  await page.getByRole('button', { name: 'Make a join token' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.waitFor();
  assert.equal(await focused(page), 'Name');
  await dialog.getByRole('button', { name: 'Make the join token' }).click();
  await fieldSays(dialog, 'Name', /Fill in: Name/);
  await dialog.getByLabel('Name').fill('lima-nodes');
  await dialog.getByLabel('Makes members of').selectOption({ label: name });
  await dialog.getByLabel('Good for how many days').fill('7');
  await dialog.getByRole('button', { name: 'Make the join token' }).click();
  const secret = await page.getByLabel('The join token lima-nodes').inputValue();
  assert.match(secret, /^darter_/);
  const row = page.getByRole('row', { name: /lima-nodes/ });
  await row.getByRole('link', { name: 'lima' }).waitFor();
  await page.reload();
  await row.waitFor();
  assert.ok(!(await page.content()).includes(secret), 'a join token is shown once');
  await page.getByRole('button', { name: 'Remove lima-nodes' }).click();
  await page.getByRole('button', { name: 'Remove the join token' }).click();
  await sees(page.locator('.notice'), 'The join token lima-nodes is removed.');
  assert.ok(!(await api('GET', '/join-tokens')).some((token) => token.name === 'lima-nodes'));
});
