//! Ids of every kind as people and JSON write them: what is taken has one text form.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_types::{Hash, NodeId, PoolId, SpaceId, StripeId, UserId};
use std::{fmt::Display, str::FromStr};

fn check<T: FromStr + Display>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        assert_eq!(id.to_string(), text);
    }
}

fuzz_target!(|text: &str| {
    check::<Hash>(text);
    check::<StripeId>(text);
    check::<PoolId>(text);
    check::<SpaceId>(text);
    check::<NodeId>(text);
    check::<UserId>(text);
});
