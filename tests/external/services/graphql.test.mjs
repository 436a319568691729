// graphql-ws, its own server and client (subprotocol graphql-transport-ws), with queries over plain HTTP beside it,
// through the gateway of docs/recipes/graphql.md.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { buildSchema, graphql } from 'graphql';
import { createClient } from 'graphql-ws';
import { useServer } from 'graphql-ws/use/ws';
import { WebSocket, WebSocketServer } from 'ws';
import '../support/any-certificate.mjs';
import { connect } from '../support/client.mjs';
import { startRecipe } from '../support/front.mjs';
import { until, within } from '../support/wait.mjs';

const schema = buildSchema('type Query { hello(name: String!): String } type Subscription { count(to: Int!): Int }');
const roots = {
  query: { hello: ({ name }) => `hello ${name}` },
  subscription: {
    async *count({ to }) {
      counting += 1;
      try {
        for (let count = 1; count <= to; count++) yield { count };
        // Endless ones have nothing more to say.
        if (to === 0) await new Promise((resolve) => (quiet = resolve));
      } finally {
        counting -= 1;
      }
    },
  },
};

let counting = 0;
let quiet;
let http;
let wss;
let front;

before(async () => {
  http = createServer(async (request, response) => {
    const { query, variables } = JSON.parse(await text(request));
    const result = await graphql({ schema, source: query, rootValue: roots.query, variableValues: variables });
    response.setHeader('Content-Type', 'application/json').end(JSON.stringify(result));
  });
  wss = new WebSocketServer({ server: http, path: '/graphql' });
  const onConnect = ({ connectionParams }) => connectionParams?.token === 'right';
  useServer({ schema, roots, onConnect }, wss, 200); // pings often, so that a test sees some
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  front = await startRecipe('graphql', [`ws://127.0.0.1:${http.address().port}`]);
});

after(async () => {
  await front?.stop();
  for (const client of wss?.clients ?? []) client.terminate();
  http?.closeAllConnections();
  http?.close();
});

for (const scheme of ['ws', 'wss']) {
  const open = (t, options) => {
    const connectionParams = { token: 'right' };
    const url = front.url('/graphql', scheme);
    const client = createClient({ url, webSocketImpl: WebSocket, connectionParams, retryAttempts: 0, ...options });
    t.after(() => client.dispose());
    return client;
  };
  /** All results of an operation. */
  const results = (client, query, variables) =>
    within(
      new Promise((resolve, reject) => {
        const seen = [];
        client.subscribe({ query, variables }, { next: (result) => seen.push(result.data), error: reject, complete: () => resolve(seen) });
      }),
      'end of the operation',
    );

  describe(`graphql-ws over ${scheme}`, () => {
    test('a query and a subscription over one session', async (t) => {
      const client = open(t);
      assert.deepEqual(await results(client, 'query ($name: String!) { hello(name: $name) }', { name: '🌊' }), [{ hello: 'hello 🌊' }]);
      const counts = await results(client, 'subscription { count(to: 200) }');
      assert.deepEqual(counts.map(({ count }) => count), Array.from({ length: 200 }, (_, i) => i + 1));
    });

    test('an operation that the client ends is ended at the server', async (t) => {
      const client = open(t);
      const unsubscribe = client.subscribe({ query: 'subscription { count(to: 0) }' }, { next() {}, error() {}, complete() {} });
      await until(() => counting === 1, 'subscription at the server');
      unsubscribe();
      quiet();
      await until(() => counting === 0, 'end of the subscription at the server');
      assert.equal(counting, 0);
    });

    test('pings of the protocol and of the server find their answers', async (t) => {
      let pongs = 0;
      const client = open(t, { keepAlive: 50, lazy: false, on: { pong: (received) => (pongs += received) } });
      await until(() => pongs >= 10, 'pongs');
      assert.deepEqual(await results(client, '{ hello(name: "still there") }'), [{ hello: 'hello still there' }]);
    });

    test('who may not connect hears 4403, and who names no subprotocol 4406', async (t) => {
      const refused = new Promise((resolve) => open(t, { connectionParams: {}, lazy: false, onNonLazyError: resolve }));
      assert.equal((await within(refused, 'refusal')).code, 4403);
      const other = await connect(front.url('/graphql', scheme));
      assert.equal((await other.end()).code, 4406);
    });

    test('a query over plain HTTP', async () => {
      const body = JSON.stringify({ query: '{ hello(name: "http") }' });
      const answer = await fetch(front.http('/graphql', scheme), { method: 'POST', body, signal: AbortSignal.timeout(20_000) });
      assert.deepEqual(await answer.json(), { data: { hello: 'hello http' } });
    });
  });
}
