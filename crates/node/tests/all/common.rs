//! Pools of whole nodes in this process, over real connections on loopback.

#![allow(unreachable_pub, reason = "a module of a test program")]

use potluck_crypto::SigningKey;
use potluck_net::Endpoint;
use potluck_node::{
    Access, FileMeta, HealthInfo, InviteOptions, Kind, Node, NodeConfig, NodeError, Path, PutOptions, PutReport,
    RemoveOptions, Revoked, Share, Space, World,
};
use potluck_types::{ByteSize, NodeId, SpaceName, Timestamp};
use std::{future::Future, time::Duration};
use tempfile::TempDir;

/// For a broken run, not a measure: nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// What must end.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Waits for a state, looking again and again.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// So many bytes that do not repeat and cannot be compressed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

/// A node of the pool, and its home.
pub struct Member {
    pub node: Option<Node>,
    pub home: TempDir,
}

/// Nodes of one person.
pub struct Pool {
    pub members: Vec<Member>,
    grace: Duration,
    retention: Duration,
}

pub fn config(home: &TempDir, grace: Duration) -> NodeConfig {
    NodeConfig {
        home: home.path().to_owned(),
        listen: vec!["127.0.0.1:0".to_owned()],
        announce: Vec::new(),
        capacity: ByteSize(2_000_000_000),
        zone: None,
        region: None,
        name: None,
        mdns: false,
        relay: true,
        grace,
        world: World::default(),
        retention: RETENTION,
        mass_change_share: Share::HALF,
        passphrase: None,
    }
}

/// How long what is removed can be brought back, unless a test says otherwise.
pub const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// Removes what is at a path with all below it, and lets go of it.
pub async fn remove_now(node: &Node, path: &str) -> u64 {
    let options = RemoveOptions {
        recursive: true,
        now: true,
        confirmed: true,
    };
    node.private()
        .remove(&path.parse().unwrap(), options)
        .await
        .unwrap()
        .files
}

impl Pool {
    /// So many nodes of one person, all of which see each other.
    pub async fn of(nodes: usize, grace: Duration) -> Self {
        Self::keeping(nodes, grace, RETENTION).await
    }

    /// The same, where what is removed can be brought back for this long.
    pub async fn keeping(nodes: usize, grace: Duration, retention: Duration) -> Self {
        // `RUST_LOG=potluck_node=debug` tells what happened.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
        let mut pool = Self {
            members: Vec::new(),
            grace,
            retention,
        };
        let home = tempfile::tempdir().unwrap();
        let first = Node::found(pool.config(&home), "test").await.unwrap();
        pool.members.push(Member {
            node: Some(first),
            home,
        });
        for _ in 1..nodes {
            pool.add().await;
        }
        pool.all_see_each_other().await;
        pool
    }

    pub fn config(&self, home: &TempDir) -> NodeConfig {
        NodeConfig {
            retention: self.retention,
            ..config(home, self.grace)
        }
    }

    pub async fn add(&mut self) {
        self.add_in(None).await;
    }

    /// One more machine of the same person, which says that it stands there.
    pub async fn add_in(&mut self, region: Option<&str>) {
        let options = InviteOptions {
            uses: 1,
            expires: Duration::from_secs(3600),
            mine: true,
        };
        let ticket = self.node(0).invite(options).await.unwrap().ticket;
        let home = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            region: region.map(|region| region.parse().unwrap()),
            ..self.config(&home)
        };
        let node = Node::join(config, &ticket).await.unwrap();
        self.members.push(Member { node: Some(node), home });
    }

    /// One that runs.
    pub fn node(&self, i: usize) -> &Node {
        self.members[i].node.as_ref().expect("it runs")
    }

    pub fn running(&self) -> Vec<&Node> {
        self.members.iter().filter_map(|member| member.node.as_ref()).collect()
    }

    pub async fn all_see_each_other(&self) {
        let expected = self.running().len();
        for node in self.running() {
            eventually("all see each other", || async {
                let status = node.status().await.unwrap();
                let there = status
                    .nodes
                    .iter()
                    .filter(|info| info.away_since.is_none() && info.capacity.0 > 0);
                there.count() == expected && status.silent.is_empty()
            })
            .await;
        }
    }

    /// Until a node sees that so many members are away.
    pub async fn are_away(&self, i: usize, number: usize) {
        eventually("they are known to be away", || async {
            let nodes = self.node(i).status().await.unwrap().nodes;
            nodes.iter().filter(|info| info.away_since.is_some()).count() == number
        })
        .await;
    }

    pub async fn kill(&mut self, i: usize) {
        self.members[i].node.take().expect("it runs").stop().await;
    }

    pub async fn restart(&mut self, i: usize) {
        let config = self.config(&self.members[i].home);
        self.start(i, config).await;
    }

    /// Where it was reached before: so that those find it that were away meanwhile.
    pub async fn restart_at(&mut self, i: usize, address: String) {
        let config = NodeConfig {
            listen: vec![address],
            ..self.config(&self.members[i].home)
        };
        self.start(i, config).await;
    }

    /// Where one listens: `IP:PORT`.
    pub fn address(&self, i: usize) -> String {
        listens_at(self.node(i))
    }

    async fn start(&mut self, i: usize, config: NodeConfig) {
        self.members[i].node = Some(started(config).await);
    }

    /// Another person joins, with a machine of theirs.
    pub async fn guest(&self) -> (Node, TempDir) {
        self.guest_in(None).await
    }

    /// The same, with one that says that it stands there.
    pub async fn guest_in(&self, region: Option<&str>) -> (Node, TempDir) {
        let options = InviteOptions {
            uses: 1,
            expires: Duration::from_secs(60),
            mine: false,
        };
        let ticket = self.node(0).invite(options).await.unwrap().ticket;
        let home = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            region: region.map(|region| region.parse().unwrap()),
            ..config(&home, self.grace)
        };
        (Node::join(config, &ticket).await.unwrap(), home)
    }

    pub async fn put(&self, i: usize, path: &str, content: &[u8]) -> PutReport {
        put(self.node(i), path, content).await.unwrap()
    }

    pub async fn holds(&self, i: usize, path: &str, content: &[u8]) {
        let path = path.parse().unwrap();
        eventually("the name arrives", || async {
            self.node(i).private().stat(&path).await.is_ok()
        })
        .await;
        let got = self
            .node(i)
            .private()
            .download(&path, None)
            .await
            .unwrap()
            .read_to_end()
            .await
            .unwrap();
        assert!(
            got == content,
            "{path} differs: {} bytes instead of {}",
            got.len(),
            content.len()
        );
    }

    /// Until the stewards say so.
    pub async fn health(&self, what: &str, holds: impl Fn(&HealthInfo) -> bool) {
        let node = self.running()[0];
        let begun = std::time::Instant::now();
        loop {
            let status = node.status().await.unwrap();
            if status.silent.is_empty() && status.health.gathering == 0 && holds(&status.health) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "never: {what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Where a node listens: `IP:PORT`.
pub fn listens_at(node: &Node) -> String {
    let addresses = node.identity().addresses;
    let port = addresses
        .iter()
        .find_map(|address| address.strip_prefix("/ip4/127.0.0.1/tcp/"));
    format!("127.0.0.1:{}", port.unwrap())
}

/// A node of a home on which one has just stopped: its tasks let go of the home a moment after that.
pub async fn started(config: NodeConfig) -> Node {
    for _ in 0..200 {
        match Node::start(config.clone()).await {
            Ok(node) => return node,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("the home stays locked");
}

/// Until a node sees that so many machines are here, itself counted.
pub async fn sees(node: &Node, machines: usize) {
    eventually("so many machines are here", || async {
        let nodes = node.status().await.unwrap().nodes;
        let here = nodes
            .iter()
            .filter(|node| node.capacity.0 > 0 && node.away_since.is_none());
        here.count() == machines
    })
    .await;
}

pub fn name(text: &str) -> SpaceName {
    text.parse().unwrap()
}

/// What is in a file.
pub async fn read(space: &Space, path: &str) -> Result<Vec<u8>, NodeError> {
    space.download(&path.parse().unwrap(), None).await?.read_to_end().await
}

/// What is in a file, once its name is here.
pub async fn read_when_named(space: &Space, path: &str) -> Vec<u8> {
    let path_in_it = path.parse().unwrap();
    eventually("the name arrives", || async { space.stat(&path_in_it).await.is_ok() }).await;
    read(space, path).await.unwrap()
}

/// Puts one file into a person's private space.
pub async fn put(node: &Node, path: &str, content: &[u8]) -> Result<PutReport, NodeError> {
    put_into(&node.private(), path, content).await
}

/// Puts one file.
pub async fn put_into(space: &Space, path: &str, content: &[u8]) -> Result<PutReport, NodeError> {
    let mut upload = space.upload(PutOptions::default())?;
    let meta = FileMeta {
        modified: Timestamp::from_millis(1_000),
        executable: false,
    };
    upload
        .put_file(path.parse().unwrap(), meta, std::io::Cursor::new(content.to_vec()))
        .await?;
    upload.finish().await
}

/// Takes machines out of a person's hands; all others of theirs stay.
pub async fn revoke(node: &Node, gone: &[NodeId]) -> Result<Revoked, NodeError> {
    let status = node.status().await.unwrap();
    let mine = status.nodes.iter().filter(|info| info.user == status.identity.user);
    let stays = mine.map(|info| info.id).filter(|id| !gone.contains(id)).collect();
    node.revoke(&gone.iter().copied().collect(), &stays).await
}

/// What a person may do who is let in to read.
pub const READ: Access = Access {
    may_write: false,
    since: None,
    until: None,
    quota: None,
    may_share: false,
};
/// And to write.
pub const WRITE: Access = Access {
    may_write: true,
    ..READ
};

/// The secret key in a file of a home.
pub fn key_in(home: &TempDir, file: &str) -> SigningKey {
    let text = std::fs::read_to_string(home.path().join(file)).unwrap();
    let hex = text.trim().rsplit(' ').next().unwrap();
    let seed: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    SigningKey::from_seed(&seed.try_into().unwrap())
}

/// Connects an end of the network that is no node to these.
pub async fn connect(endpoint: &Endpoint, nodes: &[&Node]) {
    for node in nodes {
        let identity = node.identity();
        let addresses = identity.addresses.iter().map(|text| text.parse().unwrap()).collect();
        within("it connects", endpoint.connect(identity.node, addresses))
            .await
            .unwrap();
    }
}

/// The paths of all files of a space, each with its length.
pub async fn files_of(space: &Space) -> Vec<(String, u64)> {
    let (mut found, mut left) = (Vec::new(), vec![Path::root()]);
    while let Some(directory) = left.pop() {
        for entry in space.list(&directory, None, 1000).await.unwrap() {
            let here = directory.join(entry.name);
            match entry.kind {
                Kind::Directory => left.push(here),
                Kind::File => found.push((here.to_string(), entry.len)),
            }
        }
    }
    found.sort();
    found
}
