//! Which crate may know which. The same map is drawn in ARCHITECTURE.md.

use super::Finding;
use crate::crates::Member;

/// Every crate, with all that it may depend on in this workspace, to run, to build or to test.
const ARROWS: [(&str, &[&str]); 12] = [
    ("potluck-types", &[]),
    ("potluck-crypto", &["potluck-types"]),
    ("potluck-dag", &["potluck-types", "potluck-crypto"]),
    ("potluck-spaces", &["potluck-types", "potluck-crypto"]),
    ("potluck-net", &["potluck-types", "potluck-crypto"]),
    ("potluck-placement", &["potluck-types"]),
    ("potluck-store", &["potluck-types"]),
    (
        "potluck-node",
        &[
            "potluck-types",
            "potluck-crypto",
            "potluck-dag",
            "potluck-spaces",
            "potluck-net",
            "potluck-placement",
            "potluck-store",
        ],
    ),
    (
        "potluck",
        &["potluck-node", "potluck-types", "potluck-spaces", "potluck-crypto"],
    ),
    (
        "potluck-sim",
        &[
            "potluck-node",
            "potluck-net",
            "potluck-placement",
            "potluck-store",
            "potluck-types",
        ],
    ),
    ("potluck-chaos", &[]),
    ("xtask", &[]),
];

/// Crates of others that only some of ours may name: what begins so, and who may. The rest decides, and leaves the world to these.
const BORDERS: [(&str, &[&str]); 3] = [
    ("libp2p", &["potluck-net"]),
    ("redb", &["potluck-store", "potluck-node"]),
    (
        "tokio",
        &["potluck-net", "potluck-node", "potluck", "potluck-sim", "potluck-chaos"],
    ),
];

pub(super) fn check(members: &[Member]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members {
        let manifest = format!("{}/Cargo.toml", member.folder);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == member.name) else {
            let remedy = "say what it may depend on, in xtask/src/tidy/arrows.rs and in ARCHITECTURE.md";
            findings.push(Finding::new(
                manifest,
                format!("{} is not on the map of crates", member.name),
                remedy,
            ));
            continue;
        };
        for own in member.own.iter().filter(|own| !allowed.contains(&own.as_str())) {
            let what = format!("{} must not know {own}", member.name);
            findings.push(Finding::new(
                &manifest,
                what,
                "move what it needs to a crate that both may know",
            ));
        }
        for (prefix, allowed) in BORDERS {
            for foreign in member.foreign.iter().filter(|name| name.starts_with(prefix)) {
                if !allowed.contains(&member.name.as_str()) {
                    let remedy = format!("leave it to {}", allowed.join(" or "));
                    findings.push(Finding::new(
                        &manifest,
                        format!("{} must not name {foreign}", member.name),
                        remedy,
                    ));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[track_caller]
    fn check_one(name: &str, own: &[&str], foreign: &[&str], expected: &[&str]) {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let member = Member {
            name: name.to_owned(),
            folder: "crates/x".to_owned(),
            own: set(own),
            foreign: set(foreign),
        };
        let found: Vec<_> = check(&[member]).into_iter().map(|finding| finding.what).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn arrows_hold() {
        check_one("potluck-dag", &["potluck-types", "potluck-crypto"], &["bytes"], &[]);
        check_one(
            "potluck-dag",
            &["potluck-store"],
            &[],
            &["potluck-dag must not know potluck-store"],
        );
        check_one("potluck-store", &[], &["redb"], &[]);
        check_one("potluck-spaces", &[], &["redb"], &["potluck-spaces must not name redb"]);
        check_one(
            "potluck-node",
            &[],
            &["libp2p-kad"],
            &["potluck-node must not name libp2p-kad"],
        );
        check_one(
            "potluck-extra",
            &[],
            &[],
            &["potluck-extra is not on the map of crates"],
        );
    }
}
