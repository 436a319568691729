//! The rate of opening handshakes of one client (governor, GCRA).

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::config::model::Rate;
use crate::policy::client::ClientKey;
use crate::proto::refusal::Refusal;

/// Clients remembered one by one; beyond it all share one bucket until the next sweep, so that an attack from many
/// addresses costs bounded memory.
const CLIENTS_MAX: usize = 200_000;

#[derive(Debug)]
pub struct Handshakes {
    clients: RateLimiter<ClientKey, DashMapStateStore<ClientKey>, DefaultClock>,
    everybody: governor::DefaultDirectRateLimiter,
}

impl Handshakes {
    pub fn new(rate: Rate) -> Self {
        let period = rate.per / rate.count.get();
        // A period of zero would be no limit at all; `check` refuses rates that fine.
        let quota = Quota::with_period(period).unwrap_or_else(|| Quota::per_second(rate.count)).allow_burst(rate.count);
        Handshakes { clients: RateLimiter::dashmap(quota), everybody: RateLimiter::direct(quota) }
    }

    /// # Errors
    /// [`Refusal::HandshakeRate`], with the time after which the next one may pass.
    pub fn check(&self, client: ClientKey) -> Result<(), Refusal> {
        let clock = DefaultClock::default();
        let verdict =
            if self.clients.len() < CLIENTS_MAX { self.clients.check_key(&client) } else { self.everybody.check() };
        verdict.map_err(|until| Refusal::HandshakeRate { retry_after: until.wait_time_from(clock.now()) })
    }

    /// Forgets those whose bucket is full again, and gives their memory back.
    pub fn sweep(&self) {
        self.clients.retain_recent();
        self.clients.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_waits_for_its_turn() {
        let rate = Rate { count: NonZeroU32::new(5).expect("not zero"), per: Duration::from_secs(3600) };
        let handshakes = Handshakes::new(rate);
        let client = ClientKey::from("192.0.2.1".parse::<IpAddr>().expect("an address"));
        let other = ClientKey::from("192.0.2.2".parse::<IpAddr>().expect("an address"));
        for _ in 0..5 {
            assert_eq!(handshakes.check(client), Ok(()));
        }
        let Err(Refusal::HandshakeRate { retry_after }) = handshakes.check(client) else {
            panic!("the sixth is over the rate");
        };
        assert!(retry_after > Duration::from_secs(600) && retry_after <= Duration::from_secs(720));
        assert_eq!(handshakes.check(other), Ok(()));
    }
}
