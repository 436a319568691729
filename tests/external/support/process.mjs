// A child process of ours: its lines can be waited for, and it ends with the test that started it.
import { spawn } from 'node:child_process';
import { within } from './wait.mjs';

export class Process {
  /** Everything written so far, standard output and standard error mixed, as an operator would see it. */
  output = '';
  #waiters = new Set();

  constructor(command, args, options = {}) {
    this.name = [command, ...args].join(' ');
    this.child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.output += text;
        for (const waiter of this.#waiters) waiter();
      });
    }
    this.ended = new Promise((resolve) => {
      this.child.on('error', (error) => resolve({ error }));
      this.child.on('close', (code, signal) => resolve({ code, signal }));
    });
    this.ended.then((end) => {
      this.end = end;
      for (const waiter of this.#waiters) waiter();
    });
  }

  /** Waits until the output matches `pattern`; an early end of the process is an error that shows its words. */
  async line(pattern, ms) {
    let check;
    const seen = new Promise((resolve, reject) => {
      check = () => {
        const match = this.output.match(pattern);
        if (match) resolve(match);
        else if (this.end) reject(new Error(`${this.name} ended (${JSON.stringify(this.end)}):\n${this.output}`));
      };
    });
    this.#waiters.add(check);
    check();
    try {
      return await within(seen, `line ${pattern} from ${this.name}`, ms);
    } catch (error) {
      error.message += `\n${this.output}`;
      throw error;
    } finally {
      this.#waiters.delete(check);
    }
  }

  /** Ends the process: politely, then by force. */
  async stop(signal = 'SIGTERM') {
    if (this.end) return this.end;
    this.child.kill(signal);
    try {
      return await within(this.ended, `end of ${this.name} after ${signal}`, 5_000);
    } catch {
      this.child.kill('SIGKILL');
      return this.ended;
    }
  }
}
