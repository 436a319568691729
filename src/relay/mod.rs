//! The relay: one task owns both sides of a session, for its whole life.
//!
//! In: two byte streams on which both sides said 101, and the rules of the route. Out: an [`End`]. An idle session owns no
//! buffer; bytes pass as they came, between them only what [`session`] has to say itself: pongs, pings and one Close a side.

pub mod ahead;
pub mod clock;
pub mod end;
pub mod farewell;
mod leg;
pub mod registry;
mod scratch;
pub mod session;
pub mod stream;
mod toll;

pub use end::{Cause, End, Side};
pub use session::Session;
pub use stream::Stream;
