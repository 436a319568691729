//! Header fields: what is hop-by-hop, what is ours to write, what never passes (RFC 9110 section 7.6, RFC 7239).
