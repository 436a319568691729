// The embedded servers, each as a process of its own: `tidegate backend echo|clock|chat`.
import { binary } from './front.mjs';
import { Process } from './process.mjs';

/** Starts one on `port`, a free one unless it says otherwise. */
export async function startBackend(kind, port = 0) {
  const process = new Process(binary, ['backend', kind, '--listen', `127.0.0.1:${port}`]);
  try {
    const [url, taken] = await process.line(/ws:\/\/127\.0\.0\.1:(\d+)/);
    return { url, port: Number(taken), stop: (signal) => process.stop(signal) };
  } catch (error) {
    await process.stop();
    throw error;
  }
}
