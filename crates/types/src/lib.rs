//! What every other crate speaks: ids, units, limits, the clock and the source of randomness, the canonical
//! encoding, and the shape of a stripe.
//!
//! Nothing here does I/O, except [`SystemClock`] and [`SystemEntropy`], which are the two doors to the
//! outside; everything else takes time and randomness as arguments.

mod clock;
mod codec;
mod dice;
mod id;
pub mod limits;
pub mod proof;
pub mod sabotage;
mod stripe;
mod units;

pub use clock::{Clock, Entropy, SystemClock, SystemEntropy, Timestamp};
pub use codec::{CodecError, from_canonical, from_canonical_or_later, from_own, to_canonical};
pub use dice::Dice;
pub use id::{Digest, Hash, NodeId, ParseIdError, PoolId, SpaceId, StripeId, UserId};
pub use stripe::{Descriptor, Geometry, Shard, ShardError, ShardId, UnverifiedShard};
pub use units::{ByteSize, MachineName, ParseUnitError, Region, Regions, SpaceName, UserName, Zone};
