//! Entries of three devices that sign what they like, eight bytes each: a log takes exactly those that go on where it is, and its pins are
//! those of the entries that it took.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{Record, Signed, SigningKey};
use potluck_spaces::{Append, Entry, Log, MemoryKv, PinState, Pins};
use potluck_types::{Hash, SpaceId, StripeId, Timestamp, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// An entry as `docs/format.md` has it, with fields that can be set to anything.
#[derive(Serialize, Deserialize)]
struct Forged {
    version: u8,
    space: SpaceId,
    seq: u64,
    clock: Timestamp,
    previous: Option<Hash>,
    pins: Vec<StripeId>,
    unpins: Vec<StripeId>,
    sealed: ByteBuf,
}

impl Record for Forged {
    const CONTEXT: &'static str = Entry::CONTEXT;
}

/// What a log should know of a device.
#[derive(Default)]
struct Known {
    seq: u64,
    clock: u64,
    hash: Option<Hash>,
}

fuzz_target!(|bytes: &[u8]| {
    let space = SpaceId::from_bytes([1; 32]);
    let log = Log::of(space);
    let mut kv = MemoryKv::default();
    let mut devices: [Known; 3] = Default::default();
    let mut pins: BTreeMap<StripeId, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for step in bytes.chunks_exact(8).take(64) {
        let device = &mut devices[usize::from(step[0] % 3)];
        let stripes = |at: usize| vec![StripeId::from_bytes([step[at] % 4; 32]); usize::from(step[at] >> 6)];
        let forged = Forged {
            version: if step[1] == 0xff { 3 } else { 1 + step[1] % 2 },
            space,
            seq: (device.seq + 1).saturating_add_signed(i64::from(step[2] as i8 / 32)),
            clock: Timestamp::from_millis((device.clock + 1).saturating_add_signed(i64::from(step[3] as i8) / 8)),
            previous: if step[4] < 200 {
                device.hash
            } else {
                Some(Hash::of(step))
            },
            pins: stripes(5),
            unpins: stripes(6),
            sealed: ByteBuf::from(vec![step[7]]),
        };
        let goes_on = forged.version <= 2
            && forged.seq == device.seq + 1
            && forged.previous == device.hash
            && (device.seq == 0 || forged.clock.as_millis() > device.clock);
        let key = SigningKey::from_seed(&[step[0] % 3; 32]);
        let signed = Signed::sign(&key, &forged).expect("it is short").to_bytes();
        let signed = Signed::<Entry>::from_bytes(&signed).expect("an entry");
        let taken = log.append(&mut kv, &signed);
        assert_eq!(matches!(taken, Ok((Append::New, ..))), goes_on, "{taken:?}");
        if goes_on {
            let clock = forged.clock.as_millis();
            *device = Known {
                seq: forged.seq,
                clock,
                hash: Some(signed.hash()),
            };
            for stripe in forged.pins {
                let state = pins.entry(stripe).or_default();
                state.0 = state.0.max(Some(clock));
            }
            for stripe in forged.unpins {
                let state = pins.entry(stripe).or_default();
                state.1 = state.1.max(Some(clock));
            }
        }
    }
    for (stripe, state) in pins {
        let state = (state.0.map(Timestamp::from_millis), state.1.map(Timestamp::from_millis));
        let found = Pins::of(space).state(&kv, stripe).expect("it is in memory");
        assert_eq!(to_canonical(&found), to_canonical(&expected(state)));
    }
    let frontier = log.frontier(&kv).expect("it is in memory");
    assert_eq!(frontier.len(), devices.iter().filter(|device| device.seq > 0).count());
});

fn expected((pinned, unpinned): (Option<Timestamp>, Option<Timestamp>)) -> PinState {
    let fields = BTreeMap::from([("pinned", pinned), ("unpinned", unpinned)]);
    from_canonical(&to_canonical(&fields)).expect("its fields")
}
