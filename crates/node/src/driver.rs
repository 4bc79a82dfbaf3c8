//! The driver: select an event, let the core handle it, apply its actions. All decisions are elsewhere.

mod reports;
mod state;
mod upkeep;

pub(crate) use upkeep::compact;

use crate::{
    audit, charters, checkpoint,
    collect::{self, ABANDONED_AFTER},
    control::{Action, Event},
    devices,
    due::Due,
    error::MetaError,
    links, logs,
    protocol::{self, BATCH_MAX, Credential, JoinReply, JoinRequest, PoolReply, PoolRequest},
    records::{PoolRecord, Sent},
    serve, share,
    shared::{AskError, Shared},
    sweep, upload, watch,
};
use bytes::Bytes;
use potluck_net::{self as net, Inbox, Protocol, RequestError};
use potluck_types::{NodeId, Timestamp};
use state::{state_interval, used_interval};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// The core is told that time has passed when it asked for it, at least so often, and no more often.
const TICK_MAX: Duration = Duration::from_secs(600);
const TICK_MIN: Duration = Duration::from_millis(100);
/// How soon after something has happened it is looked whether files should be coded anew, or whether any are missing.
const LOOK_DELAY: Duration = Duration::from_secs(5);
/// How long it takes until who is here is settled; then it is looked again.
const LOOK_SETTLED: Duration = Duration::from_secs(15);
/// How often all shards are checked for being used: at first, and when nothing was found for long. What is given up is told at once; this is for what was not heard.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(4 * 3600);
/// How old what others know of many spaces may be when it is looked what nobody uses.
const HEARD_MAX: Duration = Duration::from_secs(10);
/// When a sweep begins after a start, and after nobody was to be reached: what was given up while this node was away must not wait for hours.
const SWEEP_DELAY: Duration = Duration::from_secs(20);

/// How often notes are compared with some member, and how soon after one has come who is not known here: gossip of a new member may have been lost.
const CATCH_UP_INTERVAL: Duration = Duration::from_secs(3600);
const CATCH_UP_DELAY: Duration = Duration::from_secs(3);

/// Runs the node until it is stopped.
pub(crate) async fn run(shared: Arc<Shared>, mut inbox: Inbox, mut events: mpsc::UnboundedReceiver<Event>) {
    for (work, first) in [
        (Work::Upkeep, upkeep::FIRST_STEP),
        (Work::Sweep, SWEEP_DELAY),
        (Work::Watch, LOOK_DELAY),
        (Work::Recode, LOOK_DELAY),
        (Work::Audit, audit::FIRST_ROUND),
        (Work::CatchUp, CATCH_UP_INTERVAL),
        (Work::Links, LOOK_DELAY),
    ] {
        tokio::spawn(again_and_again(Arc::clone(&shared), work, first));
    }
    let mut timers = Timers::new(&shared);
    loop {
        tokio::select! {
            // Timers are never late; and that a peer is here is known before what it says is taken, else its reports would be forgotten as
            // those of before.
            biased;
            () = shared.stopping.cancelled() => return,
            () = sleep_until(timers.next()) => timers.ring(&shared),
            () = shared.news.notified() => timers.was_said(&shared, 0),
            () = shared.handled.notified() => timers.follow(&shared),
            event = inbox.events.recv() => match event {
                Some(event) => on_network(&shared, event),
                None => return,
            },
            Some(event) = events.recv() => {
                // What has gathered meanwhile goes through the core together.
                let mut pass_on = |event| {
                    timers.note(&event);
                    shared.run_event(event);
                };
                let mut stored = Vec::new();
                let mut next = Some(event);
                while let Some(event) = next {
                    match event {
                        Event::Stored(shards) => stored.extend(shards),
                        other => {
                            if matches!(other, Event::Gone(_)) && !stored.is_empty() {
                                // What was stored and is gone already is not said to be here.
                                pass_on(Event::Stored(std::mem::take(&mut stored)));
                            }
                            pass_on(other);
                        }
                    }
                    next = events.try_recv().ok().filter(|_| stored.len() < BATCH_MAX);
                }
                if !stored.is_empty() {
                    pass_on(Event::Stored(stored));
                }
            }
            request = inbox.requests.recv() => match request {
                Some(request) => drop(tokio::spawn(serve::serve(Arc::clone(&shared), request))),
                None => return,
            },
        }
    }
}

/// When the driver does something of itself.
struct Timers {
    /// The core wants to be told that time has passed.
    tick: Instant,
    /// How this node is is said again, and how often it was since it changed.
    state: Instant,
    said: u32,
    said_at: Instant,
    /// What is used of the disk has changed: it is looked whether others should know.
    used: Option<Instant>,
    view_changed_at: Timestamp,
}

impl Timers {
    fn new(shared: &Shared) -> Self {
        let now = Instant::now();
        let mut timers = Self {
            tick: now,
            state: now,
            said: 0,
            said_at: now,
            used: None,
            view_changed_at: Timestamp::default(),
        };
        timers.was_said(shared, 0);
        timers
    }

    fn next(&self) -> Instant {
        let next = self.tick.min(self.state);
        self.used.map_or(next, |used| used.min(next))
    }

    fn ring(&mut self, shared: &Arc<Shared>) {
        let now = Instant::now();
        if now >= self.tick {
            self.tick = now + TICK_MAX;
            shared.run_event(Event::Tick);
        }
        let is_stale = self.used.is_some_and(|used| now >= used) && shared.is_state_stale();
        if is_stale {
            shared.say_state();
            self.was_said(shared, 0);
        } else if now >= self.state {
            shared.say_state_again();
            self.was_said(shared, self.said + 1);
        }
        self.used = self.used.filter(|used| now < *used);
    }

    /// How this node is was told just now, for so many times since it changed.
    fn was_said(&mut self, shared: &Shared, said: u32) {
        let members = shared.with_control(|control| control.roster.nodes().count());
        self.said = said;
        self.said_at = Instant::now();
        self.state = self.said_at + state_interval(said, members);
    }

    /// What is used changes with what is stored.
    fn note(&mut self, event: &Event) {
        if matches!(event, Event::Stored(_) | Event::Gone(_)) && self.used.is_none() {
            self.used = Some(self.said_at + used_interval(0));
        }
    }

    /// The core has handled something: when it wants to be called, and whether who is here has changed.
    fn follow(&mut self, shared: &Shared) {
        let now = shared.steady();
        let (wake_at, changed_at) = shared.with_control(|control| (control.wake_at(now), control.view_changed_at()));
        // What happens meanwhile puts it off no further.
        let tick = Instant::now() + wake_at.since(now).clamp(TICK_MIN, TICK_MAX);
        self.tick = self.tick.min(tick);
        if changed_at != self.view_changed_at {
            self.view_changed_at = changed_at;
            shared.look_within(LOOK_SETTLED);
        }
    }
}

/// What is done over and over, each in its own time.
#[derive(Clone, Copy)]
enum Work {
    Upkeep,
    Sweep,
    Watch,
    Recode,
    Audit,
    CatchUp,
    Links,
}

async fn again_and_again(shared: Arc<Shared>, work: Work, first: Duration) {
    let alone = Due::after(first);
    let due = match work {
        Work::Upkeep | Work::Audit => &alone,
        Work::Sweep => &shared.sweep_due,
        Work::Watch => &shared.watch_due,
        Work::Recode => &shared.recode_due,
        Work::CatchUp => &shared.catch_up_due,
        Work::Links => &shared.links.due,
    };
    due.within(first);
    let mut quiet = 0;
    loop {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            () = due.wait() => {}
        }
        let next = match work {
            Work::Upkeep => upkeep::keep_up(&shared).await,
            Work::Sweep => {
                quiet = if sweep_all(&shared).await { 0 } else { quiet + 1 };
                SWEEP_INTERVAL
                    .saturating_mul(1 << quiet.min(16))
                    .min(SWEEP_INTERVAL_MAX)
            }
            Work::Watch => watch::look(&shared).await,
            Work::Recode => recode(&shared).await,
            Work::Audit => audit::round(&shared).await,
            Work::CatchUp => catch_up(&shared).await,
            Work::Links => links::look(&shared).await,
        };
        due.within(next);
    }
}

/// Gives up what was abandoned, and frees what is not used. Whether there was anything, or not all could be looked at.
async fn sweep_all(shared: &Arc<Shared>) -> bool {
    let mut is_quiet = true;
    let task = Arc::clone(shared);
    if let Err(error) = Shared::blocking(move || charters::look_again(&task)).await {
        tracing::warn!(%error, "whose grants have ended is not known");
    }
    charters::cut_all_logs(shared).await;
    for space in shared.open_spaces() {
        checkpoint::fill_soon(&space);
    }
    let mut collected = Vec::new();
    for space in shared.written_spaces() {
        share::renew(&space).await;
        if let Err(error) = links::withdraw_of_former_keys(&space).await {
            tracing::info!(space = %space.id().short(), %error, "links that a lost machine knows are not all ended yet");
        }
        if let Err(error) = share::end_logs(&space).await {
            tracing::info!(space = %space.id().short(), %error, "how far the log of a lost machine counts is not known yet");
        }
        if let Err(error) = checkpoint::look_as_first(&space).await {
            tracing::info!(space = %space.id().short(), %error, "no checkpoint of the space is made");
        }
        match collect::may_collect(&space).await {
            Ok(true) => collected.push(space),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "what abandoned uploads have left is not collected yet");
                is_quiet = false;
            }
        }
    }
    let heard = Instant::now();
    let mut behind = logs::catch_up_all(shared, &collected).await;
    for space in collected {
        let given_up = match behind.remove(&space.id()) {
            Some(error) => Err(error),
            // What others have said since is not known.
            None if heard.elapsed() > HEARD_MAX => collect::collect(&space, ABANDONED_AFTER).await,
            None => collect::collect_heard(&space, ABANDONED_AFTER).await,
        };
        if let Err(error) = &given_up {
            tracing::warn!(%error, "what abandoned uploads have left is not collected yet");
        }
        is_quiet &= given_up.is_ok_and(|count| count == 0);
    }
    let freed = sweep::sweep(shared).await;
    freed != Some(0) || !is_quiet
}

async fn recode(shared: &Arc<Shared>) -> Duration {
    let mut next = Duration::MAX;
    for space in shared.written_spaces() {
        if space.is_partial() {
            // Those who have all of it see to that.
            continue;
        }
        next = next.min(upload::look(&space).await);
    }
    if !shared.leaving.load(Ordering::Relaxed) {
        return next;
    }
    // What nobody uses any more must not keep it.
    sweep::sweep(shared).await;
    LOOK_DELAY
}

fn on_network(shared: &Arc<Shared>, event: net::Event) {
    match event {
        net::Event::Connected(node) => {
            if shared.with_control(|control| control.live_peers()).is_empty() {
                shared.sweep_due.within(SWEEP_DELAY);
            }
            if shared.with_control(|control| control.roster.user_of(node)).is_none() {
                shared.catch_up_due.within(CATCH_UP_DELAY);
            }
            shared.agreed_reports().forget(node);
            shared.agreed_logs().forget(node);
            shared.run_event(Event::Connected(node));
            // It may hold less than it did when it was here last.
            shared.watch.lock().expect("never poisoned").call_for_newcomer();
            shared.look_within(LOOK_SETTLED);
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
        if self.keep(record.clone()).await {
            apply(self, Action::Publish(record));
        }
    }

    /// Takes a record, and whether it is news: then it is on disk.
    pub(crate) async fn keep(self: &Arc<Self>, record: PoolRecord) -> bool {
        let mut is_news = false;
        for action in self.handle(Event::Record(record)) {
            match action {
                Action::SaveRecords => is_news = true,
                other => apply(self, other),
            }
        }
        if is_news {
            self.save_records().await;
        }
        is_news
    }

    /// Takes a record of this node's own, and tells everybody who is here directly.
    pub(crate) async fn tell_all(self: &Arc<Self>, record: PoolRecord) {
        let peers = self.with_control(|control| control.live_peers());
        let request = PoolRequest::Records(Sent::of([&record]));
        let told = peers.into_iter().map(|peer| self.ask(peer, &request));
        futures::future::join_all(told).await;
        self.introduce(record).await;
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

    async fn save_standings(self: &Arc<Self>) {
        self.save("how others have stood their audits", |shared| {
            let now = shared.steady();
            let standings = shared.with_control(|control| control.standings().saved());
            shared.meta.set_standings(&standings, now)
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
        Action::KeyReplaced => devices::hear_soon(&shared),
        // What is coded for more domains than there are where it may be now is coded anew.
        Action::Confined => {
            // Who has given up a log since may be to keep it again.
            shared.agreed_logs().retain(|_| false);
            shared.look_within(LOOK_SETTLED);
        }
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
                    shared.tell_again(to);
                }
            });
        }
        Action::CheckReports { all } => drop(tokio::spawn(reports::check_reports(shared, all))),
        Action::SaveStandings => drop(tokio::spawn(async move { shared.save_standings().await })),
        Action::Announce => shared.announce_state(),
        Action::Probe(node) => drop(tokio::spawn(async move { audit::probe(&shared, node).await })),
        Action::Mend(mend) => drop(tokio::spawn(crate::mend::mend(shared, mend))),
    }
}

/// Compares notes with some member that is here.
async fn catch_up(shared: &Arc<Shared>) -> Duration {
    let peers = shared.with_control(|control| control.live_peers());
    let chance = u64::from_le_bytes(shared.entropy.bytes());
    if let Some(at) = chance.checked_rem(peers.len() as u64) {
        compare_notes(shared, peers[at as usize], None).await;
    }
    CATCH_UP_INTERVAL
}

/// Compares notes with a member that has just connected, or is to be told that it has.
async fn greet(shared: Arc<Shared>, node: NodeId) {
    let state = shared.with_control(|control| control.own_state());
    compare_notes(&shared, node, state).await;
}

async fn compare_notes(shared: &Arc<Shared>, node: NodeId, state: Option<PoolRecord>) {
    let digest = shared.with_control(|control| control.digest());
    let reply = match shared.ask(node, &PoolRequest::Hello { digest, state }).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(node = %node.short(), %error, "a member does not return the greeting");
            if matches!(error, AskError::Request(RequestError::NotAMember)) {
                ask_standing(shared, node).await;
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
        for record in records.known() {
            shared.introduce(record).await;
        }
        if !shared.caught_up.swap(true, Ordering::Relaxed) {
            shared.announce_state();
        }
    }
    if let Some(state @ PoolRecord::State(_)) = state {
        shared.run_event(Event::Record(state));
    }
    for (space, pulled) in logs::pull_all(shared, node, &shared.spaces.ids()).await {
        match pulled {
            Ok(unpinned) if !unpinned.is_empty() => sweep::release(shared, space, unpinned).await,
            Ok(_) => {}
            Err(error) => tracing::debug!(node = %node.short(), error, "its log of a space was not read"),
        }
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
