// The Socket.IO server of services/socketio.mjs, as a process.
import { join } from 'node:path';
import { Process } from './process.mjs';

/** Starts one on `port`, a free one unless it says otherwise. */
export async function startSocketIo(port = 0) {
  const process = new Process('node', [join(import.meta.dirname, '../services/socketio.mjs'), String(port)]);
  const [, url] = await process.line(/listening on (\S+)/);
  return { url, pid: process.child.pid, stop: (signal) => process.stop(signal) };
}
