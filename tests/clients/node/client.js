// The program for Node's etcd3. Started by ../run.sh with ENDPOINT.
'use strict';
const assert = require('node:assert/strict');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const { Etcd3 } = require('etcd3');

const etcd = new Etcd3({ hosts: `http://${process.env.ENDPOINT}` });
const client = etcd.namespace('/clients/node/');
const within = (seconds, promise) =>
  Promise.race([promise, sleep(seconds * 1000, undefined, { ref: false }).then(() => assert.fail('too late'))]);

const checks = {
  async 'put, get, delete'() {
    await client.put('a').value('1');
    assert.equal((await client.put('a').value('2').getPrevious()).value.toString(), '1');
    assert.equal(await client.get('a').string(), '2');
    assert.equal((await client.delete().key('a')).deleted, '1');
    assert.equal(await client.get('a').string(), null);
  },

  async 'range with order, limit and count'() {
    for (let i = 0; i < 20; i++) await client.put(`list/${String(i).padStart(2, '0')}`).value(i);
    const page = await client.getAll().prefix('list/').sort('Key', 'Descend').limit(3).strings();
    assert.deepEqual(page, { 'list/19': '19', 'list/18': '18', 'list/17': '17' });
    assert.equal(await client.getAll().prefix('list/').count(), 20);
  },

  async 'transaction'() {
    await client.put('txn').value('1');
    const swap = () =>
      client.if('txn', 'Value', '==', '1').then(client.put('txn').value('2')).else(client.get('txn')).commit();
    assert.equal((await swap()).succeeded, true);
    const second = await swap();
    assert.equal(second.succeeded, false);
    assert.equal(second.responses[0].response_range.kvs[0].value.toString(), '2');
  },

  async 'software transactional memory'() {
    await client.put('stm').value('0');
    const increment = () =>
      client.stm({ retries: 50 }).transact(async tx => tx.put('stm').value(Number(await tx.get('stm').string()) + 1));
    await Promise.all(Array.from({ length: 8 }, increment));
    assert.equal(await client.get('stm').number(), 8);
  },

  async 'watch from history to live'() {
    const first = await client.put('w').value('0');
    const seen = [];
    const watcher = await client.watch().key('w').startRevision(first.header.revision).withPreviousKV().create();
    const deleted = new Promise(resolve => {
      watcher.on('put', kv => seen.push(kv.value.toString()));
      watcher.on('delete', (kv, previous) => resolve(previous.value.toString()));
    });
    await client.put('w').value('1');
    await client.put('w').value('2');
    await client.delete().key('w');
    assert.equal(await within(10, deleted), '2');
    assert.deepEqual(seen, ['0', '1', '2']);
    await watcher.cancel();
  },

  async 'lease: kept alive, then revoked'() {
    const lease = client.lease(2);
    await lease.put('leased').value('1');
    await within(10, once(lease, 'keepaliveSucceeded'));
    await sleep(3000);
    assert.equal(await client.get('leased').string(), '1');
    await lease.revoke();
    assert.equal(await client.get('leased').string(), null);
  },

  async 'a lease left alone expires'() {
    const lease = client.lease(2, { autoKeepAlive: false });
    await lease.put('short').value('1');
    const watcher = await client.watch().key('short').create();
    await within(20, once(watcher, 'delete'));
    await watcher.cancel();
  },

  async 'lock'() {
    await client.lock('lock').do(async () => {
      await assert.rejects(client.lock('lock').acquire());
    });
    await (await client.lock('lock').acquire()).release();
  },

  async 'election'() {
    const one = client.election('election').campaign('one');
    await within(10, once(one, 'elected'));
    const observer = await client.election('election').observe();
    assert.equal(observer.leader() ?? (await within(10, once(observer, 'change')))[0], 'one');
    const two = client.election('election').campaign('two');
    await one.resign();
    await within(10, two.wait());
    await two.resign();
    await observer.cancel();
  },

  async 'status and members'() {
    const status = await etcd.maintenance.status();
    assert.match(status.version, /^3\.7\./);
    const { members } = await etcd.cluster.memberList({});
    assert.equal(members[0].ID, status.leader);
  },
};

(async () => {
  await client.delete().all();
  for (const [name, check] of Object.entries(checks)) {
    try {
      await within(30, check());
      console.log(`ok node ${name}`);
    } catch (error) {
      console.log(`FAIL node ${name}: ${String(error.message).split('\n')[0]}`);
    }
  }
  etcd.close();
  process.exit(0);
})();
