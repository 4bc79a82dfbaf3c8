//! What a person is told of where a file is and how safe: the truth, also when a disk has rotted and machines are away.

use crate::common::{Pool, bytes, eventually};
use potluck_node::{ExplainOptions, Explanation, Node, NodeError, NodeStatus, StripeWork, TreeError};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

const GRACE: Duration = Duration::from_secs(3600);

async fn explain(node: &Node, path: &str, check: bool) -> Explanation {
    node.private()
        .explain(&path.parse().unwrap(), ExplainOptions { check })
        .await
        .unwrap()
}

/// A bit flips in every shard that is stored in this home.
fn rot(home: &Path) {
    for entry in fs::read_dir(home.join("store")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pack") {
            continue;
        }
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let len = file.metadata().unwrap().len();
        for at in (20_000..len).step_by(60_000) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    }
}

fn proved(explanation: &Explanation) -> (u64, u64) {
    let machines = || explanation.machines.iter();
    (
        machines().map(|share| share.proved).sum(),
        machines().map(|share| share.failed).sum(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_survives_is_told_as_it_is() {
    let mut pool = Pool::of(5, GRACE).await;
    pool.put(0, "/folder/large", &bytes(1, 6_000_000)).await;
    pool.put(0, "/folder/small", b"with its name").await;
    eventually("stewards have heard of all", || async {
        let explanation = explain(pool.node(0), "/folder/large", false).await;
        explanation.work.iter().all(|(work, _)| *work == StripeWork::Nothing) && explanation.unheard == 0
    })
    .await;
    let told = explain(pool.node(0), "/folder/large", true).await;
    let stripes = told.stripes;
    assert_eq!(
        (told.files, told.bytes, told.inline, told.promised),
        (1, 6_000_000, 0, 2)
    );
    assert_eq!((told.least(), told.survives.get(&2)), (Some(2), Some(&stripes)));
    let shards = told.told.iter().map(|stripe| stripe.shards.len() as u64).sum();
    assert_eq!(proved(&told), (shards, 0), "each shard on its machine");
    // Its manifest is short, and copied.
    let geometries: Vec<_> = told.told.iter().filter_map(|stripe| stripe.geometry).collect();
    assert!(
        geometries.contains(&(2, 2)) && geometries.contains(&(1, 2)),
        "{geometries:?}"
    );
    let small = explain(pool.node(0), "/folder/small", true).await;
    assert_eq!(
        (small.files, small.inline, small.stripes, small.least()),
        (1, 1, 0, Some(2))
    );
    let keepers = small.machines.iter().filter(|share| share.keeps_names).count();
    assert!((3..=4).contains(&keepers), "{keepers}: the custodians and this node");
    let both = explain(pool.node(0), "/", false).await;
    assert_eq!(
        (both.files, both.bytes, both.inline, both.stripes),
        (2, 6_000_013, 1, stripes)
    );
    let absent = pool
        .node(0)
        .private()
        .explain(&"/none".parse().unwrap(), ExplainOptions::default())
        .await;
    assert!(
        matches!(absent, Err(NodeError::Tree(TreeError::NotFound(_)))),
        "{absent:?}"
    );

    // What rotted is not proved, does not count, and is made anew: nobody is doubted for it.
    rot(pool.members[1].home.path());
    let rotten = explain(pool.node(0), "/folder/large", true).await;
    let failed = proved(&rotten).1;
    assert!(
        failed > 0 && rotten.least() < Some(2),
        "{failed} failed, and it survives {:?}",
        rotten.least()
    );
    eventually("all is made anew", || async {
        let told = explain(pool.node(0), "/folder/large", true).await;
        told.least() == Some(2) && proved(&told) == (shards, 0)
    })
    .await;
    let nodes = pool.node(0).status().await.unwrap().nodes;
    assert!(
        nodes
            .iter()
            .all(|info| info.status != NodeStatus::Doubted && info.audit.wrong == 0)
    );

    // Two are away: what survived no more loss is mended at once, as far as three machines go; the rest waits.
    pool.kill(3).await;
    pool.kill(4).await;
    pool.are_away(0, 2).await;
    eventually("all survives one more loss", || async {
        let told = explain(pool.node(0), "/folder/large", false).await;
        told.least() == Some(1) && told.unheard == 0
    })
    .await;
    let told = explain(pool.node(0), "/folder", false).await;
    let away = || told.machines.iter().filter(|share| share.status == NodeStatus::Away);
    assert!(away().all(|share| share.shards == 0) && away().any(|share| share.unconfirmed > 0));
    assert_eq!(told.short_paths, ["/folder/large".parse().unwrap()]);
    assert!(
        told.work
            .iter()
            .any(|(work, _)| matches!(work, StripeWork::Waiting { .. })),
        "{:?}",
        told.work
    );
}
