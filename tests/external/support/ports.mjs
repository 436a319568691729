// For servers that take no port 0, and do not say when they listen.
import { once } from 'node:events';
import net from 'node:net';
import { until } from './wait.mjs';

/** A port of loopback that nobody listens on. */
export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Waits until somebody listens on it. */
export function listening(port) {
  const accepts = () =>
    new Promise((resolve) => {
      const socket = net.connect(port, '127.0.0.1');
      socket.on('error', () => resolve(false));
      socket.on('connect', () => {
        socket.destroy();
        resolve(true);
      });
    });
  return until(accepts, `server on port ${port}`);
}
