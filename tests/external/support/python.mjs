// The Python of the tests: the environment that tests/run makes under target/.
import { join, resolve } from 'node:path';

const environment = resolve(process.env.TIDEGATE_VENV ?? join(import.meta.dirname, '../../../target/external/python3'));

export const python = join(environment, 'bin/python');
