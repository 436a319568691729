// For clients that offer no way to name what they trust, as Node's fetch: they take the certificate of the front. What
// clients see of certificates is tested where they can name it.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
process.removeAllListeners('warning');
