//! Entries of three devices that sign what they like, eight bytes each: a log takes exactly those that go on where it is, its pins are
//! those of the entries that it took, and the changes of those that one of these erases are nowhere.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{Record, Signed, SigningKey};
use potluck_spaces::{Append, Entry, EntryId, Log, Logged, MemoryKv, PinState, Pins};
use potluck_types::{Hash, NodeId, SpaceId, StripeId, Timestamp, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet};

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
    #[serde(default, skip_serializing_if = "is_nothing")]
    sealed: ByteBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beside: Option<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    erases: Option<EntryId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    area: Option<ByteBuf>,
}

fn is_nothing(bytes: &ByteBuf) -> bool {
    bytes.is_empty()
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
    // In which areas somebody has erased an entry, or in none.
    let mut erased: BTreeSet<(EntryId, Option<u8>)> = BTreeSet::new();
    // Whether the changes of an entry that was taken lie beside it, and its area.
    let mut taken: BTreeMap<EntryId, (bool, Option<u8>)> = BTreeMap::new();
    let mut pins: BTreeMap<StripeId, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for step in bytes.chunks_exact(8).take(64) {
        let device = &mut devices[usize::from(step[0] % 3)];
        let stripes = |at: usize| vec![StripeId::from_bytes([step[at] % 4; 32]); usize::from(step[at] >> 6)];
        let number = step[0] % 3;
        let version = if step[1] == 0xff { 5 } else { 1 + step[1] % 4 };
        let is_beside = version >= 3;
        let area = (version == 4).then_some((step[1] >> 2) % 2);
        let key = SigningKey::from_seed(&[number; 32]);
        let changes = ByteBuf::from(vec![step[7]]);
        let erases = (step[0] >= 128).then(|| EntryId {
            device: device_of(step[6] % 3),
            seq: 1 + u64::from(step[7] % 8),
        });
        let forged = Forged {
            version,
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
            sealed: if is_beside { ByteBuf::new() } else { changes.clone() },
            beside: is_beside.then(|| Hash::of(&changes)),
            erases,
            epoch: area.map(|_| Hash::of(b"epoch")),
            area: area.map(|area| ByteBuf::from(vec![area; 4])),
        };
        let id = EntryId {
            device: key.node_id(),
            seq: forged.seq,
        };
        let is_sent_alone = !is_beside || step[0] & 64 != 0;
        let says_more = !(forged.pins.is_empty() && forged.unpins.is_empty());
        let goes_on = version <= 4
            && (area.is_none() || forged.unpins.is_empty())
            && (erases.is_none() || (is_beside && !says_more))
            && (!is_beside || !is_sent_alone || erased.contains(&(id, area)))
            && forged.seq == device.seq + 1
            && forged.previous == device.hash
            && (device.seq == 0 || forged.clock.as_millis() > device.clock);
        let signed = Signed::sign(&key, &forged).expect("it is short").to_bytes();
        let hash = Hash::of(&signed);
        let sent = match is_sent_alone {
            true => signed,
            false => to_canonical(&BTreeMap::from([("entry", ByteBuf::from(signed)), ("sealed", changes)])),
        };
        let logged = Logged::from_bytes(&sent).expect("an entry");
        let append = log.append(&mut kv, &logged);
        assert_eq!(
            append.as_ref().is_ok_and(|appended| appended.append == Append::New),
            goes_on,
            "{append:?}"
        );
        if goes_on {
            taken.insert(id, (is_beside, area));
            erased.extend(erases.map(|of| (of, area)));
            let clock = forged.clock.as_millis();
            *device = Known {
                seq: forged.seq,
                clock,
                hash: Some(hash),
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
    for (id, (is_beside, area)) in taken {
        let entry = log.entry(&kv, id.device, id.seq).expect("it is in memory");
        let (entry, _) = entry.expect("it was taken").open().expect("it was taken");
        assert_eq!(entry.is_erased(), is_beside && erased.contains(&(id, area)));
    }
    let frontier = log.frontier(&kv).expect("it is in memory");
    assert_eq!(frontier.len(), devices.iter().filter(|device| device.seq > 0).count());
});

fn device_of(number: u8) -> NodeId {
    SigningKey::from_seed(&[number; 32]).node_id()
}

fn expected((pinned, unpinned): (Option<Timestamp>, Option<Timestamp>)) -> PinState {
    let fields = BTreeMap::from([("pinned", pinned), ("unpinned", unpinned)]);
    from_canonical(&to_canonical(&fields)).expect("its fields")
}
