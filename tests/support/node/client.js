// A client of RabbitMQ as people write it for Node: publishes with confirms, reads results, makes calls, prints JSON.
//
// Run by tests/system/test_foreign_publishers.py as `node client.js URL INPUT OUTPUT`, in a folder where amqplib is.
// It prints one object: {results: [...], replies: {queue, direct}}. It ends with an error when an answer takes 30 s.

const amqp = require('amqplib');

const [url, input, output] = process.argv.slice(2);
const DEADLINE = 30_000;

function read(message) {
  const { headers, contentType, contentEncoding, correlationId, messageId } = message.properties;
  const text = message.content.toString();
  return {
    body: contentType === 'application/json' ? JSON.parse(text) : text,
    headers, contentType, contentEncoding, correlationId, messageId,
  };
}

async function take(channel, queue, count) {
  const found = [];
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${found.length} of ${count} messages in ${queue}`)), DEADLINE).unref();
    channel.consume(queue, (message) => {
      channel.ack(message);
      if (found.push(read(message)) === count) resolve();
    }, { consumerTag: 'results' }).catch(reject);
  });
  await channel.cancel('results');
  return found;
}

async function call(channel, replyTo, correlationId) {
  const answer = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`no answer to ${correlationId}`)), DEADLINE).unref();
    channel.consume(replyTo, (message) => resolve(read(message)), { noAck: true, consumerTag: correlationId })
      .then(() => channel.sendToQueue(input, Buffer.from('{"ask":1}'), {
        contentType: 'application/json', replyTo, correlationId, messageId: correlationId,
      }))
      .catch(reject);
  });
  const reply = await answer;
  await channel.cancel(correlationId);
  return reply;
}

async function main() {
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  const about = { persistent: true, timestamp: Date.now(), appId: 'node', type: 'reading' };
  const headers = { tenant: 'ü', n: 7, big: 2 ** 40, half: 0.5, yes: true, nothing: null, list: [1, 'a'], table: { a: 1 } };
  channel.sendToQueue(input, Buffer.from(JSON.stringify({ text: 'grün', n: 1.5 })), {
    ...about, headers, contentType: 'application/json', contentEncoding: 'utf-8', messageId: 'node-json',
  });
  channel.sendToQueue(input, Buffer.from('["no type"]'), { ...about, messageId: 'node-untyped' });
  channel.sendToQueue(input, Buffer.from([0, 255]), {
    ...about, contentType: 'application/octet-stream', messageId: 'node-bytes',
  });
  channel.sendToQueue(input, require('node:zlib').gzipSync('{"packed":true}'), {
    ...about, contentType: 'application/json', contentEncoding: 'gzip', messageId: 'node-gzip',
  });
  await channel.waitForConfirms();
  const results = await take(channel, output, 4);
  const { queue } = await channel.assertQueue('', { exclusive: true });
  const replies = {
    queue: await call(channel, queue, 'by-queue'),
    direct: await call(channel, 'amq.rabbitmq.reply-to', 'by-direct-reply-to'),
  };
  await take(channel, output, 2);  // the results of the calls, which the output gets too
  await connection.close();
  console.log(JSON.stringify({ results, replies }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
