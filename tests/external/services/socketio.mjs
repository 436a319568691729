// A Socket.IO server as its documentation has it: `node socketio.mjs [PORT]`. Prints its URL, then serves until it is ended.
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const http = createServer();
const io = new Server(http);

io.on('connection', (socket) => {
  const { headers, address } = socket.handshake;
  socket.emit('welcome', { server: process.pid, proto: headers['x-forwarded-proto'], address });
  socket.on('echo', (...args) => args.pop()(...args));
  socket.on('join', async (room, done) => {
    await socket.join(room);
    done();
  });
  socket.on('say', (room, ...words) => io.to(room).emit('said', ...words));
  socket.on('count', (number) => socket.emit('counted', number));
});

http.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => console.log(`listening on ws://127.0.0.1:${http.address().port}`));
