// A certificate for 127.0.0.1 and localhost, for servers of ours that speak TLS.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Makes one with openssl in `directory`. Gives `{ key, cert }` for node:tls, and the `file` that a client trusts. */
export function makeCertificate(directory) {
  const key = join(directory, 'server.key');
  const file = join(directory, 'server.pem');
  const names = ['-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  // An authority is no server: rustls refuses a certificate that is both.
  const subject = ['-subj', '/CN=localhost', ...names, '-addext', 'basicConstraints=critical,CA:FALSE'];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', file, ...subject], {
    stdio: 'ignore',
  });
  return { key: readFileSync(key), cert: readFileSync(file), file };
}
