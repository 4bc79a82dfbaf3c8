//! The driver: select an event, let the core handle it, apply its actions. All decisions are elsewhere.

use crate::{
    collect::{self, ABANDONED_AFTER},
    control::{Action, Check, Event, ReportSum},
    error::MetaError,
    names,
    protocol::{self, BATCH_MAX, Credential, JoinReply, JoinRequest, PoolReply, PoolRequest, Reported},
    records::{NodeState, PoolRecord, VERSION, sign},
    serve,
    shared::{AskError, Shared},
    sweep, twin, upload, watch,
};
use bytes::Bytes;
use potluck_net::{self as net, Address, Inbox, Protocol, RequestError};
use potluck_placement::steward;
use potluck_types::{ByteSize, NodeId, ShardId, limits};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::mpsc, time::interval};

/// How often the core is told that time has passed.
const TICK: Duration = Duration::from_millis(500);
/// How often the node says how it is, if nothing changed.
const STATE_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is looked whether the pool has changed so that files should be coded anew, or looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// A change of what is used that is told sooner.
const USED_STEP: ByteSize = ByteSize(1 << 20);
/// How soon, and how much later for each node that is told: gossip stays in proportion.
const USED_INTERVAL: Duration = Duration::from_secs(5);
const USED_INTERVAL_PER_NODE: Duration = Duration::from_millis(20);
/// Steps in which it is told how much others have filled of the disk, as parts of the capacity.
const FILLED_STEPS: u64 = 64;
/// How often a step of scrub and compaction is taken.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Steps of scrub that go through everything: at one a minute, two weeks.
const SCRUB_STEPS: u64 = 20_000;
const SCRUB_STEP_MIN: ByteSize = ByteSize(16 << 20);
const COMPACT_STEP: ByteSize = ByteSize(64 << 20);
/// Compaction steps in one round.
const COMPACT_STEPS_MAX: usize = 16;
/// How often all shards are checked for being used.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// When the first sweep begins: what was given up while this node was away must not wait an hour.
const SWEEP_DELAY: Duration = Duration::from_secs(20);
/// Shards that one step of a report reads.
const PAGE: usize = 1024;

/// Runs the node until it is stopped.
pub(crate) async fn run(shared: Arc<Shared>, mut inbox: Inbox, mut events: mpsc::UnboundedReceiver<Event>) {
    let mut tick = interval(TICK);
    let mut state = interval(STATE_INTERVAL);
    let mut upkeep = interval(UPKEEP_INTERVAL);
    let mut looking = interval(LOOK_INTERVAL);
    let mut sweeping = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP_DELAY, SWEEP_INTERVAL);
    for timer in [&mut tick, &mut state, &mut upkeep, &mut looking, &mut sweeping] {
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            // Timers are never late; and that a peer is here is known before what it says is taken, else its reports would be forgotten as
            // those of before.
            biased;
            () = shared.stopping.cancelled() => return,
            _ = tick.tick() => {
                shared.run_event(Event::Tick);
                if shared.is_state_stale() {
                    shared.announce_state();
                }
            }
            _ = state.tick() => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // Before, since others keep the last state only.
                    twin::look(&shared).await;
                    shared.announce_state();
                });
            }
            _ = upkeep.tick() => drop(tokio::spawn(keep_up(Arc::clone(&shared)))),
            _ = looking.tick() => {
                let watching = Arc::clone(&shared);
                tokio::spawn(async move { watch::look(&watching).await });
                let shared = Arc::clone(&shared);
                let is_leaving = shared.leaving.load(std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(async move {
                    upload::look(&shared).await;
                    // What nobody uses any more must not keep it.
                    if is_leaving {
                        sweep::sweep(&shared).await;
                    }
                });
            }
            _ = sweeping.tick() => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = collect::collect(&shared, ABANDONED_AFTER).await {
                        tracing::warn!(%error, "what abandoned uploads have left is not collected yet");
                    }
                    sweep::sweep(&shared).await;
                });
            }
            event = inbox.events.recv() => match event {
                Some(event) => on_network(&shared, event),
                None => return,
            },
            Some(event) = events.recv() => {
                // What has gathered meanwhile goes through the core together.
                let mut stored = Vec::new();
                let mut next = Some(event);
                while let Some(event) = next {
                    match event {
                        Event::Stored(shards) => stored.extend(shards),
                        other => shared.run_event(other),
                    }
                    next = events.try_recv().ok().filter(|_| stored.len() < BATCH_MAX);
                }
                if !stored.is_empty() {
                    shared.run_event(Event::Stored(stored));
                }
            }
            request = inbox.requests.recv() => match request {
                Some(request) => drop(tokio::spawn(serve::serve(Arc::clone(&shared), request))),
                None => return,
            },
        }
    }
}

fn on_network(shared: &Arc<Shared>, event: net::Event) {
    match event {
        net::Event::Connected(node) => {
            shared.run_event(Event::Connected(node));
            // It may hold less than it did when it was here last.
            shared.watch.lock().expect("never poisoned").call();
        }
        net::Event::Disconnected(node) => shared.run_event(Event::Disconnected(node)),
        net::Event::Listening(address) => {
            shared.addresses.lock().expect("never poisoned").push(address);
            shared.announce_state();
        }
        net::Event::Discovered(node, address)
            if shared.with_control(|control| control.roster.user_of(node)).is_some() =>
        {
            let endpoint = shared.endpoint.clone();
            tokio::spawn(async move { endpoint.connect(node, vec![address]).await });
        }
        net::Event::Gossip { author: _, data } => match PoolRecord::from_bytes(&data) {
            Ok(record) => shared.run_event(Event::Record(record)),
            Err(error) => tracing::debug!(%error, "a gossip message is no record"),
        },
        _ => {}
    }
}

impl Shared {
    /// Lets the core handle an event, and applies what it says.
    pub(crate) fn run_event(self: &Arc<Self>, event: Event) {
        for action in self.handle(event) {
            apply(self, action);
        }
    }

    /// As [`Shared::run_event`], where the order with an answer matters.
    pub(crate) async fn apply(self: &Arc<Self>, event: Event) {
        self.run_event(event);
        tokio::task::yield_now().await;
    }

    /// Takes a record that came directly, and tells the others when it is news.
    pub(crate) async fn introduce(self: &Arc<Self>, record: PoolRecord) {
        let actions = self.handle(Event::Record(record.clone()));
        let is_news = actions.iter().any(|action| matches!(action, Action::SaveRecords));
        let mut save = false;
        for action in actions {
            match action {
                Action::SaveRecords => save = true,
                other => apply(self, other),
            }
        }
        if save {
            self.save_records().await;
        }
        if is_news {
            apply(self, Action::Publish(record));
        }
    }

    async fn save_records(self: &Arc<Self>) {
        self.save("the pool's records", |shared| {
            let records: Vec<_> = shared.with_control(|control| control.roster.records().cloned().collect());
            shared.meta.set_records(records.iter())
        })
        .await;
    }

    async fn save_layouts(self: &Arc<Self>) {
        self.save("the pool's layout", |shared| {
            let layouts = shared.with_control(|control| control.layouts().clone());
            shared.meta.set_layouts(&layouts)
        })
        .await;
    }

    async fn save_absences(self: &Arc<Self>) {
        self.save("who is away", |shared| {
            let (absences, noted_at) = shared.with_control(|control| {
                let (absences, noted_at) = control.absences();
                (absences.clone(), noted_at)
            });
            shared.meta.set_absences(&absences, noted_at)
        })
        .await;
    }

    /// Looks what is so now and writes it down, one after the other: what is older never comes last.
    async fn save(
        self: &Arc<Self>,
        what: &'static str,
        write: impl FnOnce(&Self) -> Result<(), MetaError> + Send + 'static,
    ) {
        let _one_at_a_time = self.saving.lock().await;
        let task = Arc::clone(self);
        if let Err(error) = Self::blocking(move || write(&task)).await {
            tracing::error!(%error, what, "this could not be kept");
        }
    }

    /// Says how this node is: to itself, and to all.
    pub(crate) fn announce_state(self: &Arc<Self>) {
        let state = self.own_state();
        self.twin.say(state.seq);
        let record = PoolRecord::State(sign(&self.node_key, &state));
        self.run_event(Event::Record(record.clone()));
        apply(self, Action::Publish(record));
    }

    /// Whether others think that much less or more of this disk is used than is, and were not told just now.
    fn is_state_stale(&self) -> bool {
        let told = self.with_control(|control| {
            let state = control.roster.state(self.me())?;
            Some((state.used, state.seq, control.roster.members().len()))
        });
        let Some((used, at, members)) = told else {
            return false;
        };
        let interval = USED_INTERVAL.max(USED_INTERVAL_PER_NODE * u32::try_from(members).unwrap_or(u32::MAX));
        let since = Duration::from_millis(self.now().as_millis().saturating_sub(at));
        since >= interval && self.taken().0.abs_diff(used.0) >= USED_STEP.0
    }

    /// What of the capacity is not to be had: what the store takes, and what others have filled of its disk. So one whose disk is full is given
    /// nothing, as one that is full itself. In steps, since what others do on a disk is no news each time.
    fn taken(&self) -> ByteSize {
        let (capacity, used) = (self.capacity.0, self.store.stats().on_disk);
        let free = self.store.free_space().map_or(u64::MAX, |free| free.0);
        let filled = capacity.saturating_sub(free);
        let step = (capacity / FILLED_STEPS).max(1);
        ByteSize(filled.div_ceil(step).saturating_mul(step).min(capacity)).max(used)
    }

    fn own_state(&self) -> NodeState {
        let (pool, last) =
            self.with_control(|control| (control.roster.pool(), control.roster.state(self.me()).cloned()));
        let (last_seq, revision) = last.map_or((0, 1), |last| {
            let is_moved = (last.capacity, &last.zone) != (self.capacity, &self.zone);
            (last.seq, last.revision + u64::from(is_moved || last.revision == 0))
        });
        NodeState {
            version: VERSION,
            pool,
            // The clock makes numbers of a restarted node greater than those before; a clock that went back does no harm.
            seq: self.now().as_millis().max(last_seq + 1),
            capacity: self.capacity,
            used: self.taken(),
            zone: self.zone.clone(),
            addresses: self.announced_addresses(),
            leaving: self.leaving.load(Ordering::Relaxed),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.name.clone(),
            revision,
            run: self.twin.run(),
        }
    }

    /// Where others can reach this node: what was configured, and what it listens on; loopback only when there is nothing else.
    pub(crate) fn announced_addresses(&self) -> Vec<String> {
        let found = self.addresses.lock().expect("never poisoned");
        let reachable: Vec<&Address> = found.iter().filter(|address| !address.is_loopback()).collect();
        let listening = if reachable.is_empty() {
            found.iter().collect()
        } else {
            reachable
        };
        let mut addresses: Vec<String> = self.announce.iter().chain(listening).map(ToString::to_string).collect();
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses.truncate(limits::ADDRESSES_MAX);
        addresses
    }
}

fn apply(shared: &Arc<Shared>, action: Action) {
    let shared = Arc::clone(shared);
    match action {
        Action::Dial { node, addresses } => {
            tokio::spawn(async move {
                let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
                if let Err(error) = shared.endpoint.connect(node, addresses).await {
                    tracing::debug!(%error, "a member is not reached");
                }
            });
        }
        Action::Greet(node) => drop(shared.greetings.spawn(greet(Arc::clone(&shared), node))),
        Action::SaveRecords => drop(tokio::spawn(async move { shared.save_records().await })),
        Action::SaveLayouts => drop(tokio::spawn(async move { shared.save_layouts().await })),
        Action::SaveAbsences => drop(tokio::spawn(async move { shared.save_absences().await })),
        Action::TakenOut if shared.parting.load(Ordering::Relaxed) => {}
        Action::TakenOut => shared.taken_out.cancel(),
        Action::SetMembers(members) => shared.endpoint.set_members(members),
        Action::Publish(record) => {
            tokio::spawn(async move { shared.endpoint.publish(Bytes::from(record.to_bytes())).await });
        }
        Action::Report { to, shards, gone } => {
            tokio::spawn(async move {
                // One that is lost is made good by the next check.
                if let Err(error) = shared
                    .ask(
                        to,
                        &PoolRequest::Report {
                            first: false,
                            shards,
                            gone,
                        },
                    )
                    .await
                {
                    tracing::debug!(to = %to.short(), %error, "a report did not arrive");
                }
            });
        }
        Action::CheckReports => drop(tokio::spawn(check_reports(shared))),
        Action::Mend(mend) => drop(tokio::spawn(crate::mend::mend(shared, mend))),
    }
}

/// Compares notes with a member that has just connected.
async fn greet(shared: Arc<Shared>, node: NodeId) {
    let (digest, state) = shared.with_control(|control| (control.digest(), control.own_state()));
    let reply = match shared.ask(node, &PoolRequest::Hello { digest, state }).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(node = %node.short(), %error, "a member does not return the greeting");
            if matches!(error, AskError::Request(RequestError::NotAMember)) {
                ask_standing(&shared, node).await;
            }
            return;
        }
    };
    let PoolReply::Hello { digest: theirs, state } = reply else {
        return;
    };
    // Where members were last, and what this node itself said last: its clock may have been set back since.
    let is_first = !shared.caught_up.load(Ordering::Relaxed);
    if (is_first || theirs != digest)
        && let Ok(PoolReply::Records(records)) = shared.ask(node, &PoolRequest::PullRecords).await
    {
        for record in records {
            shared.introduce(record).await;
        }
        if !shared.caught_up.swap(true, Ordering::Relaxed) {
            shared.announce_state();
        }
    }
    if let Some(state @ PoolRecord::State(_)) = state {
        shared.run_event(Event::Record(state));
    }
    match names::pull(&shared, node, shared.space).await {
        Ok(unpinned) if !unpinned.is_empty() => sweep::release(&shared, shared.space, unpinned).await,
        Ok(_) => {}
        Err(error) => tracing::debug!(node = %node.short(), error, "its log of the private space was not read"),
    }
}

/// Whether this node is no member any more: its person took it out while it was away.
async fn ask_standing(shared: &Arc<Shared>, node: NodeId) {
    let request = protocol::encode(&JoinRequest {
        pool: shared.with_control(|control| control.roster.pool()),
        credential: Credential::Standing,
    });
    let reply = shared.endpoint.request(node, Protocol::Join, &request).await;
    if let Ok(Ok(JoinReply::Standing(record))) = reply.map(|reply| protocol::decode(&reply)) {
        // It counts if it is signed by who certified this node.
        shared.introduce(record).await;
    }
}

/// Compares all that is held here with what the stewards know, and reports in full to those who know something else. Brings logs to
/// their custodians, too: both follow from who is here.
async fn check_reports(shared: Arc<Shared>) {
    let Ok(_one_at_a_time) = shared.checking.try_lock() else {
        return;
    };
    let task = Arc::clone(&shared);
    let sums = Shared::blocking(move || {
        let view = task.with_control(|control| control.view().clone());
        let mut sums: HashMap<NodeId, ReportSum> = HashMap::new();
        each_shard(&task, |page| {
            for shard in page {
                if let Some(node) = steward(shard.shard.stripe, &view) {
                    sums.entry(node).or_default().add(shard.shard);
                }
            }
        });
        sums
    })
    .await;
    let peers = shared.with_control(|control| control.live_peers());
    for node in peers.into_iter().chain([shared.me()]) {
        let ours = sums.get(&node).copied().unwrap_or_default();
        let mut outcome = check(&shared, node, ours).await;
        if outcome == Some(Check::Differs) {
            report_all(&shared, node).await;
            outcome = check(&shared, node, ours).await;
        }
        if matches!(outcome, Some(Check::OtherView | Check::Differs)) {
            shared.tell(Event::OtherView);
        }
    }
    names::hand_out(&shared).await;
}

/// Whether a steward knows what this node holds for it; `None` when it does not answer.
async fn check(shared: &Arc<Shared>, steward: NodeId, ours: ReportSum) -> Option<Check> {
    let view = shared.with_control(|control| control.view_digest());
    if steward == shared.me() {
        return Some(shared.with_control(|control| control.check(steward, ours, view)));
    }
    let request = PoolRequest::CheckReports {
        count: ours.count,
        sum: ours.sum.to_le_bytes(),
        view,
    };
    match shared.ask(steward, &request).await {
        Ok(PoolReply::Done) => Some(Check::Agrees),
        Ok(PoolReply::Differs) => Some(Check::Differs),
        Ok(PoolReply::OtherView) => Some(Check::OtherView),
        _ => None,
    }
}

/// Reports all shards held here that a node looks after.
async fn report_all(shared: &Arc<Shared>, to: NodeId) {
    let (sender, mut pages) = mpsc::channel::<Vec<Reported>>(2);
    let task = Arc::clone(shared);
    let reader = tokio::task::spawn_blocking(move || {
        let view = task.with_control(|control| control.view().clone());
        each_shard(&task, |page| {
            let theirs: Vec<_> = page
                .iter()
                .filter(|shard| steward(shard.shard.stripe, &view) == Some(to))
                .copied()
                .collect();
            if !theirs.is_empty() {
                let _ = sender.blocking_send(theirs);
            }
        });
    });
    let mut first = true;
    loop {
        let page = pages.recv().await;
        let is_last = page.is_none();
        if is_last && !first {
            break;
        }
        let shards = page.unwrap_or_default();
        if to == shared.me() {
            shared.run_event(Event::Reported {
                from: to,
                first,
                shards,
                gone: Vec::new(),
            });
        } else if let Err(error) = shared
            .ask(
                to,
                &PoolRequest::Report {
                    first,
                    shards,
                    gone: Vec::new(),
                },
            )
            .await
        {
            tracing::debug!(to = %to.short(), %error, "a full report did not arrive");
            break;
        }
        first = false;
        if is_last {
            break;
        }
    }
    drop(pages);
    let _ = reader.await;
}

fn each_shard(shared: &Shared, mut look: impl FnMut(&[Reported])) {
    let mut after: Option<ShardId> = None;
    loop {
        let page = match shared.store.entries(after, PAGE) {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "the shards held here cannot be listed");
                return;
            }
        };
        let Some((last, _)) = page.last() else { return };
        after = Some(*last);
        let page: Vec<_> = page
            .iter()
            .map(|(shard, entry)| Reported {
                shard: *shard,
                geometry: entry.geometry,
                shard_len: entry.payload_len,
            })
            .collect();
        look(&page);
    }
}

/// A step of scrub, and compaction as far as it is worth it.
/// Gives room back that deleted shards take, a bounded number of steps.
pub(crate) async fn compact(shared: &Arc<Shared>) {
    let store = shared.store.clone();
    Shared::blocking(move || {
        for _ in 0..COMPACT_STEPS_MAX {
            match store.compact_step(COMPACT_STEP) {
                Ok(step) if !step.idle => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "compaction does not get on");
                    break;
                }
            }
        }
    })
    .await;
}

async fn keep_up(shared: Arc<Shared>) {
    let store = shared.store.clone();
    let damaged = Shared::blocking(move || {
        let step = ByteSize((store.stats().on_disk.0 / SCRUB_STEPS).max(SCRUB_STEP_MIN.0));
        let scrubbed = match store.scrub_step(step) {
            // It had come to the end before: this round begins at the start.
            Ok(progress) if progress.wrapped && progress.bytes.0 == 0 => store.scrub_step(step),
            scrubbed => scrubbed,
        };
        match scrubbed {
            Ok(progress) => progress.damaged,
            Err(error) => {
                tracing::warn!(%error, "the scrub cannot read");
                Vec::new()
            }
        }
    })
    .await;
    compact(&shared).await;
    if !damaged.is_empty() {
        tracing::warn!(
            shards = damaged.len(),
            "shards of this node are damaged: they are dropped and will be made anew"
        );
        shared.lose(damaged);
    }
}
