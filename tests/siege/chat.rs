//! A chat of many: each message reaches each member that is still there exactly once, and in order.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use crate::camp::{self, Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{PING, PONG, Peer, TEXT, masked};
use crate::support::gateway::{Gateway, config};
use crate::support::servers::{self, Process};

/// A room of the chat server, beside the echo of the honest.
fn start(chat: &Process) -> Gateway {
    let chat = format!(
        "[[route]]\nname = \"chat\"\npath = \"/chat\"\nupstream = \"chat\"\n\
         [upstream.chat]\nservers = [\"ws://{}\"]\n",
        chat.address
    );
    Gateway::start(&config(camp::echo(), "", &format!("{chat}{NO_LIMITS}")))
}

/// The next text, parsed; pings are answered.
fn next(peer: &mut Peer) -> serde_json::Value {
    loop {
        let frame = peer.frame();
        match frame.opcode {
            PING => peer.write(&masked(PONG, &frame.payload)),
            TEXT => return serde_json::from_slice(&frame.payload).expect("JSON"),
            _ => panic!("{frame:?}"),
        }
    }
}

#[test]
fn every_member_hears_everything_once_and_in_order() {
    let members = scale(50, 200);
    let said: u64 = scale(20, 50);
    // Every tenth leaves without a word when it has said half of what it had to.
    let leaves = |member: usize| member % 10 == 9;
    let bounds = Bounds { memory: 32 * MIB, time: Duration::from_secs(120) };
    let chat = Process::of("chat", servers::any());
    Siege::around("a chat of many", || start(&chat)).attack(&bounds, |siege| {
        let address = siege.address();
        thread::scope(|scope| {
            for member in 0..members {
                scope.spawn(move || {
                    let mut peer = Peer::open(address, "/chat/siege");
                    // Nobody speaks before all are there: the last to come makes the room full.
                    while next(&mut peer)["onlineCount"] != members {}
                    let expected: usize = (0..members).filter(|other| !leaves(*other)).map(|_| said as usize).sum();
                    let mut heard: HashMap<u64, u64> = HashMap::new();
                    let mut whole = 0;
                    // Each says the next when it has heard its last.
                    let mut sent = 0;
                    while whole < expected {
                        if sent < said && heard.get(&(member as u64)).copied().unwrap_or(0) == sent {
                            if leaves(member) && sent == said / 2 {
                                return peer.reset();
                            }
                            peer.write(&masked(TEXT, format!("{member} {sent}").as_bytes()));
                            sent += 1;
                        }
                        let event = next(&mut peer);
                        if event["type"] != "chat-message" {
                            continue;
                        }
                        let text = event["message"].as_str().expect("text");
                        let (from, number) = text.split_once(' ').expect("two numbers");
                        let (from, number): (u64, u64) = (from.parse().expect("one"), number.parse().expect("two"));
                        let next = heard.entry(from).or_default();
                        assert_eq!(number, *next, "member {member} of what {from} said");
                        *next += 1;
                        whole += usize::from(!leaves(from as usize));
                    }
                });
            }
        });
    });
}
