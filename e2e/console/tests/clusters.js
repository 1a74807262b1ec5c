import assert from 'node:assert/strict';
import { ADMIN, api, fieldSays, focused, inBrowser, sees } from '../browser.js';

inBrowser('a cluster is added, changed and deleted, and what is wrong is said at its field', { as: ADMIN, at: '#/clusters' }, async (page) => {
  await page.getByRole('link', { name: 'Add a cluster' }).click();
  await page.getByRole('button', { name: 'Add the cluster' }).click();
  await fieldSays(page, 'Name', /Fill in: Name/);
  await page.getByLabel('Name', { exact: false }).first().fill('not a name');
  await page.getByLabel('Networks').fill('10.8.0.0/16\n\n10.9.0.0/99');
  await page.getByRole('button', { name: 'Add the cluster' }).click();
  await fieldSays(page, 'Networks', /10\.9\.0\.0\/99: invalid IP address syntax$/);
  assert.equal(await focused(page), 'Networks (optional)');
  await page.getByLabel('Networks').fill('10.8.0.0/16');
  await page.getByLabel('Host names').fill('gpu-(');
  await page.getByRole('button', { name: 'Add the cluster' }).click();
  await fieldSays(page, 'Name', /Write 1 to 64 letters/);
  await fieldSays(page, 'Host names', /gpu-\(: /);
  await page.getByLabel('Name', { exact: false }).first().fill('berlin');
  await page.getByLabel('Host names').fill('gpu-.*');
  await page.getByLabel('Description').fill('Racks in Berlin');
  await page.getByRole('button', { name: 'Add the cluster' }).click();
  await page.getByRole('heading', { name: 'berlin', exact: true }).waitFor();
  await sees(page, '10.8.0.0/16');
  await sees(page.locator('.notice'), 'The cluster berlin is added.');
  assert.equal(await page.title(), 'berlin · Darter');

  await page.getByRole('link', { name: 'Change' }).click();
  await page.getByLabel('Locations').fill('europe|berlin');
  await page.getByRole('button', { name: 'Save' }).click();
  await sees(page.locator('.notice'), 'The cluster berlin is changed.');
  await sees(page, 'europe|berlin');
  const [kept] = (await api('GET', '/clusters')).filter((cluster) => cluster.name === 'berlin');
  assert.deepEqual(kept.scope, { cidrs: ['10.8.0.0/16'], hostnames: ['gpu-.*'], idcs: [], locations: ['europe|berlin'] });

  await page.getByRole('button', { name: 'Delete' }).press('Enter');
  assert.equal(await focused(page), 'Cancel');
  await page.keyboard.press('Escape');
  assert.equal(await page.getByRole('dialog').count(), 0);
  assert.equal(await focused(page), 'Delete');
  await page.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('button', { name: 'Delete the cluster' }).click();
  await page.getByRole('heading', { name: 'Clusters', level: 1 }).waitFor();
  await sees(page.locator('.notice'), 'The cluster berlin is deleted.');
  assert.equal(await page.getByRole('link', { name: 'berlin' }).count(), 0);
});

inBrowser('a name that is taken is said at the field', { as: ADMIN, at: '#/clusters/new' }, async (page) => {
  await api('POST', '/clusters', { name: 'taken' });
  await page.getByLabel('Name', { exact: false }).first().fill('taken');
  await page.getByRole('button', { name: 'Add the cluster' }).click();
  await fieldSays(page, 'Name', /There is one with this name already/);
});

inBrowser('the default cannot be deleted, and the window says why', { as: ADMIN, at: '#/clusters' }, async (page) => {
  const home = (await api('GET', '/clusters')).find((cluster) => cluster.isDefault);
  await page.getByRole('link', { name: home.name, exact: true }).click();
  await page.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('button', { name: 'Delete the cluster' }).click();
  await page.getByRole('dialog').getByRole('alert').getByText('make another cluster the default first').waitFor();
});

inBrowser('it is said where a node would belong, and why', { as: ADMIN, at: '#/placement' }, async (page) => {
  await api('POST', '/clusters', { name: 'oslo', scope: { cidrs: ['10.77.0.0/16'] } });
  const find = page.getByRole('button', { name: 'Find its cluster' });
  await page.getByLabel('Address').fill('10.77.1.2');
  await find.click();
  await page.getByRole('heading', { name: 'It belongs to oslo' }).waitFor();
  await sees(page, 'because its address is in 10.77.0.0/16');
  await page.getByLabel('Address').fill('192.0.2.1');
  await page.getByLabel('Address').press('Enter');
  await sees(page, 'because no cluster is for it, and this one is the default');
  await page.getByLabel('Address').fill('not an address');
  await find.click();
  await fieldSays(page, 'Address', /invalid IP address syntax/i);
  await page.getByLabel('Address').fill('10.77.1.2');
  await find.click();
  await page.getByRole('link', { name: 'oslo' }).click();
  await page.getByRole('heading', { name: 'oslo', exact: true }).waitFor();
});

inBrowser('markup that somebody wrote is text', { as: ADMIN, at: '#/clusters' }, async (page) => {
  const hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
  const { id } = await api('POST', '/clusters', { name: 'hostile', description: hostile });
  await page.goto(`${page.url().split('#')[0]}#/clusters/${id}`);
  await sees(page, hostile);
  assert.equal(await page.title(), 'hostile · Darter');
  assert.equal(await page.locator('main img, main script').count(), 0);
});
