//! One running instance: calls into it, and what becomes of those that do not return.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::ResourceAny;
use wasmtime::{Store, Trap};

use super::contract::exports::zraft::backend::machine;
use super::contract::{Backend as Exports, BackendPre};
use super::guest::Guest;
use super::limits::{Denial, Limits, MAX_HANDLES};
use super::meter::{Meter, Usage};
use super::wasi::Forbidden;
use super::watchdog::Watchdog;
use crate::machine::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, Budget, Fault, GuestFault, Key, Moment,
    Origin, StartError, StateReader,
};
use crate::settings::Budgets;
use crate::types::ClusterId;

/// Most bytes of commands that go into a guest in one call, unless one command alone is larger. They are copied into
/// the guest's memory, whose budget must have room for them besides the state.
pub const MAX_BATCH_BYTES: usize = 1 << 20;

/// Most commands that go into a guest in one call. Beyond some hundred, a larger batch is no faster.
pub const MAX_BATCH_COMMANDS: usize = 1024;

/// Most bytes that a guest may return for one command, query or chunk.
pub const MAX_RETURN_BYTES: usize = 16 << 20;

/// Most bytes that a guest may return from one call.
const MAX_RETURN_BYTES_PER_CALL: usize = 256 << 20;

/// Longest message of a fault, in bytes: it goes into the log and to a client.
const MAX_FAULT_MESSAGE_BYTES: usize = 1024;

/// Into how large pieces a state is thought to be cut when the fuel for reading or writing it whole is reckoned.
const STATE_PIECE_BYTES: u64 = 256 << 10;

/// How many times the linear memory in use a snapshot may have: what is longer does not end.
const MAX_SNAPSHOT_PER_MEMORY: u64 = 16;

/// What a command's record takes in a guest's memory besides its data.
const COMMAND_OVERHEAD_BYTES: usize = 64;

/// How many times the configured fuel, and the configured memory, an entry may use that was applied elsewhere.
const RELAXED_FUEL: u64 = 10;
const RELAXED_MEMORY: u64 = 4;

/// Makes instances of a component for one cluster.
#[derive(Clone)]
pub struct WasmFactory {
    pre: BackendPre<Guest>,
    watchdog: Watchdog,
    one_by_one: bool,
    cluster: ClusterId,
    budgets: Budgets,
    meter: Option<Arc<Meter>>,
}

impl WasmFactory {
    pub(super) fn new(
        pre: BackendPre<Guest>,
        watchdog: Watchdog,
        one_by_one: bool,
        cluster: ClusterId,
        budgets: Budgets,
    ) -> Self {
        Self { pre, watchdog, one_by_one, cluster, budgets, meter: None }
    }

    /// The same, with instances whose calls a meter notes.
    #[must_use]
    pub fn metered(self, meter: Arc<Meter>) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// An instance that has run nothing but its start functions.
    pub(super) fn start(&self, at: Moment, budget: Budget) -> Result<Instance, Fault> {
        let limits = Limits::new(memory_bytes(&self.budgets, budget));
        let mut store = Store::new(self.pre.engine(), Guest::new(self.cluster, limits, self.watchdog.watch()));
        store.limiter(|guest| &mut guest.limits);
        store.set_max_component_handles(MAX_HANDLES);
        prepare(&mut store, "start", at, self.budgets.chunk_fuel, MAX_RETURN_BYTES);
        match self.pre.instantiate(&mut store) {
            Ok(exports) => {
                store.data_mut().end();
                let (budgets, one_by_one, meter) = (self.budgets, self.one_by_one, self.meter.clone());
                let fuel_given = budgets.chunk_fuel;
                Ok(Instance { store, exports, budgets, budget, one_by_one, fuel_given, meter, is_dead: false })
            }
            // What stops a start without a trap or a denial is the engine's or the system's doing.
            Err(error) => Err(fault(&mut store, &error, Fault::Host)),
        }
    }
}

impl std::fmt::Debug for WasmFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cluster, budgets, .. } = self;
        f.debug_struct("WasmFactory").field("cluster", cluster).field("budgets", budgets).finish_non_exhaustive()
    }
}

impl BackendFactory for WasmFactory {
    fn init(&self, at: Moment, config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        let mut instance = self.start(at, Budget::Configured)?;
        instance.init(at, config)?;
        Ok(Box::new(instance))
    }

    fn restore(
        &self,
        at: Moment,
        origin: &Origin,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        // The state is one that others had, perhaps by a budget beyond what is configured.
        let mut instance = self.start(at, Budget::Relaxed)?;
        let fuel = fuel(self.budgets.chunk_fuel, Budget::Relaxed);
        let writer = instance.begin_restore(at, origin)?.map_err(StartError::Refused)?;
        let mut total_bytes = 0u64;
        while let Some(chunk) = chunks().map_err(StartError::Source)? {
            total_bytes = total_bytes.saturating_add(chunk.len() as u64);
            let taken = instance.call("restore", at, fuel, 1, |machine, store| {
                machine.snapshot_writer().call_write(store, writer, &chunk)
            })?;
            taken.map_err(StartError::Refused)?;
        }
        // The last call may decode all that came.
        let fuel = whole_state_fuel(fuel, total_bytes);
        let finished = instance
            .call("restore", at, fuel, 1, |machine, store| machine.snapshot_writer().call_finish(store, writer))?;
        finished.map_err(StartError::Refused)?;
        Ok(Box::new(instance))
    }
}

/// An instance of a component.
pub(super) struct Instance {
    store: Store<Guest>,
    exports: Exports,
    budgets: Budgets,
    /// What commands and ends of sessions may use.
    budget: Budget,
    /// Whether the guest can see which entry it is given, other than in the command: then a batch holds one command.
    one_by_one: bool,
    /// The fuel that the last call was given.
    fuel_given: u64,
    meter: Option<Arc<Meter>>,
    is_dead: bool,
}

impl Instance {
    /// The first call of an instance that is to start with empty state.
    pub(super) fn init(&mut self, at: Moment, config: &[u8]) -> Result<(), StartError> {
        let fuel = self.budgets.chunk_fuel;
        let accepted = self.call("init", at, fuel, 1, |machine, store| machine.call_init(store, config))?;
        accepted.map_err(StartError::Refused)
    }

    /// How much fuel the last call took, and how much it was given.
    pub(super) fn last_fuel(&self) -> (u64, u64) {
        let left = self.store.get_fuel().expect("the engine counts fuel");
        (self.fuel_given.saturating_sub(left), self.fuel_given)
    }

    /// The linear memory of the instance, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.store.data().limits.memory_bytes()
    }

    /// Calls the guest. `answers` says how many commands, queries or chunks the call answers, for the bound on what it
    /// may return.
    fn call<R>(
        &mut self,
        name: &'static str,
        at: Moment,
        fuel: u64,
        answers: usize,
        run: impl FnOnce(&machine::Guest, &mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, Fault> {
        if self.is_dead {
            return Err(Fault::Host("an instance was called after it had died".to_owned()));
        }
        let return_bytes = MAX_RETURN_BYTES.saturating_mul(answers).min(MAX_RETURN_BYTES_PER_CALL);
        prepare(&mut self.store, name, at, fuel, return_bytes);
        self.fuel_given = fuel;
        let result = run(self.exports.zraft_backend_machine(), &mut self.store);
        if let Some(meter) = &self.meter {
            meter.note(Usage::of(name, self.last_fuel().0, self.memory_bytes()));
        }
        match result {
            Ok(value) => {
                self.store.data_mut().end();
                Ok(value)
            }
            Err(error) => {
                self.is_dead = true;
                // What the guest returned could not be read: bad pointers, text that is not UTF-8, too much of it.
                Err(fault(&mut self.store, &error, broken))
            }
        }
    }

    /// The contract was broken by values, in a call that returned.
    fn break_off(&mut self, message: String) -> Fault {
        self.is_dead = true;
        broken(message)
    }

    fn begin_restore(&mut self, at: Moment, origin: &Origin) -> Result<Result<ResourceAny, String>, Fault> {
        let Origin { version, config, migration } = origin;
        let origin = machine::Origin { version, config, migration: migration.as_deref() };
        self.call("restore", at, self.budgets.chunk_fuel, 1, |machine, store| machine.call_restore(store, origin))
    }

    fn apply_batch(&mut self, batch: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let commands: Vec<machine::Command<'_>> = batch.iter().map(to_guest).collect();
        let fuel = fuel(self.budgets.apply_fuel, self.budget).saturating_mul(batch.len() as u64);
        let call = |machine: &machine::Guest, store: &mut Store<Guest>| machine.call_apply(store, &commands);
        let outcomes = self.call("apply", first.at, fuel, batch.len(), call)?;
        if outcomes.len() != batch.len() {
            let message = format!("it returned {} outcomes for {} commands", outcomes.len(), batch.len());
            return Err(self.break_off(message));
        }
        Ok(outcomes.into_iter().map(from_guest).collect())
    }
}

impl Backend for Instance {
    fn version(&mut self) -> Result<String, Fault> {
        let fuel = self.budgets.query_fuel;
        self.call("version", Moment::default(), fuel, 1, |machine, store| machine.call_version(store))
    }

    fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
        self.store.data_mut().limits.set_memory_budget(memory_bytes(&self.budgets, budget));
    }

    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut rest = commands;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(if self.one_by_one { 1 } else { batch_len(rest) });
            outcomes.append(&mut self.apply_batch(batch)?);
            rest = later;
        }
        Ok(outcomes)
    }

    fn query(&mut self, at: Moment, request: &[u8]) -> Result<BackendAnswer, Fault> {
        let fuel = self.budgets.query_fuel;
        let answer = self.call("query", at, fuel, 1, |machine, store| machine.call_query(store, request))?;
        Ok(BackendAnswer { reply: answer.reply.map(Bytes::from), watched: to_keys(answer.watched) })
    }

    fn expire_session(&mut self, at: Moment, session: u64) -> Result<Vec<Key>, Fault> {
        let fuel = fuel(self.budgets.apply_fuel, self.budget);
        let Moment { index, time_ms } = at;
        let changed = self.call("expire-session", at, fuel, 1, |machine, store| {
            machine.call_expire_session(store, index, time_ms, session)
        })?;
        Ok(to_keys(changed))
    }

    fn read_state(&mut self, at: Moment, budget: Budget) -> Result<Box<dyn StateReader + '_>, Fault> {
        let chunk_fuel = fuel(self.budgets.chunk_fuel, budget);
        let whole_fuel = whole_state_fuel(chunk_fuel, self.memory_bytes());
        let reader = self.call("snapshot", at, whole_fuel, 1, |machine, store| machine.call_snapshot(store))?;
        Ok(Box::new(Reading { instance: self, at, chunk_fuel, reader, total_bytes: 0 }))
    }
}

/// The reading of an instance's state.
struct Reading<'a> {
    instance: &'a mut Instance,
    at: Moment,
    chunk_fuel: u64,
    reader: ResourceAny,
    total_bytes: u64,
}

impl StateReader for Reading<'_> {
    /// Checks each chunk against the contract: an empty one would never end, a long one would defeat the bound.
    fn next_chunk(&mut self, max_bytes: u32) -> Result<Option<Bytes>, Fault> {
        let memory_bytes = self.instance.memory_bytes();
        let (fuel, reader) = (whole_state_fuel(self.chunk_fuel, memory_bytes), self.reader);
        let chunk = self.instance.call("snapshot", self.at, fuel, 1, |machine, store| {
            machine.snapshot_reader().call_next(store, reader, max_bytes)
        })?;
        let Some(chunk) = chunk else { return Ok(None) };
        if chunk.is_empty() || chunk.len() > max_bytes as usize {
            let message = format!("it returned a chunk of {} bytes; 1 to {max_bytes} were asked for", chunk.len());
            return Err(self.instance.break_off(message));
        }
        self.total_bytes += chunk.len() as u64;
        let (total_bytes, memory_bytes) = (self.total_bytes, self.instance.memory_bytes());
        if total_bytes > memory_bytes.saturating_mul(MAX_SNAPSHOT_PER_MEMORY) {
            let message = format!("its snapshot does not end: {total_bytes} bytes of {memory_bytes} bytes of memory");
            return Err(self.instance.break_off(message));
        }
        Ok(Some(Bytes::from(chunk)))
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        let Self { instance, at, chunk_fuel, reader, .. } = *self;
        instance.call("snapshot", at, chunk_fuel, 1, |_, store| reader.resource_drop(store))
    }
}

/// The fuel of a call for which so much is configured.
fn fuel(configured: u64, budget: Budget) -> u64 {
    match budget {
        Budget::Configured => configured,
        Budget::Relaxed => configured.saturating_mul(RELAXED_FUEL),
        Budget::Unlimited => u64::MAX,
    }
}

/// The linear memory that there may be, in bytes.
fn memory_bytes(budgets: &Budgets, budget: Budget) -> u64 {
    match budget {
        Budget::Configured => budgets.memory_bytes,
        Budget::Relaxed | Budget::Unlimited => budgets.memory_bytes.saturating_mul(RELAXED_MEMORY),
    }
}

fn prepare(store: &mut Store<Guest>, name: &'static str, at: Moment, fuel: u64, return_bytes: usize) {
    store.data_mut().begin(name, at);
    store.set_fuel(fuel).expect("the engine counts fuel");
    store.set_hostcall_fuel(return_bytes);
}

/// How many commands, at least one, make the next batch.
fn batch_len(commands: &[BackendCommand]) -> usize {
    let mut bytes = 0usize;
    let fits = |command: &&BackendCommand| {
        bytes = bytes.saturating_add(command.data.len()).saturating_add(COMMAND_OVERHEAD_BYTES);
        bytes <= MAX_BATCH_BYTES
    };
    commands.iter().take(MAX_BATCH_COMMANDS).take_while(fits).count().max(1)
}

/// Fuel for a call that may have to go through the whole state at once.
fn whole_state_fuel(chunk_fuel: u64, state_bytes: u64) -> u64 {
    chunk_fuel.saturating_mul(1 + state_bytes / STATE_PIECE_BYTES)
}

fn to_guest(command: &BackendCommand) -> machine::Command<'_> {
    let BackendCommand { at, session, data } = command;
    machine::Command { index: at.index, time_ms: at.time_ms, session: *session, data }
}

fn from_guest(outcome: machine::Outcome) -> BackendOutcome {
    BackendOutcome { reply: outcome.reply.map(Bytes::from), changed: to_keys(outcome.changed) }
}

fn to_keys(keys: Vec<Vec<u8>>) -> Vec<Key> {
    keys.into_iter().map(Bytes::from).collect()
}

/// Says who ended a call and how. `otherwise` judges what is neither a trap nor a denial.
fn fault(store: &mut Store<Guest>, error: &wasmtime::Error, otherwise: impl FnOnce(String) -> Fault) -> Fault {
    let guest = store.data_mut();
    let words = guest.take_last_words();
    let denial = guest.limits.denial();
    guest.end();
    let by_guest = |kind, what: String| Fault::Guest { kind, message: shorten(explain(what, &words)) };
    if let Some(denial) = denial {
        let message = error.root_cause().to_string();
        return match denial {
            Denial::Budget => by_guest(GuestFault::OutOfMemory, message),
            Denial::Host => Fault::Host(message),
        };
    }
    if let Some(Forbidden(message)) = error.downcast_ref() {
        return by_guest(GuestFault::Trap, message.clone());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => by_guest(GuestFault::OutOfFuel, "it used up its fuel".to_owned()),
        Some(Trap::StackOverflow) => by_guest(GuestFault::StackOverflow, "it recursed too deeply".to_owned()),
        Some(trap) => by_guest(GuestFault::Trap, trap.to_string()),
        None => otherwise(shorten(format!("{error:#}"))),
    }
}

fn broken(message: String) -> Fault {
    Fault::Guest { kind: GuestFault::BrokenContract, message: shorten(message) }
}

/// A panic says more on standard error than the trap that follows.
fn explain(what: String, last_words: &[String]) -> String {
    if last_words.is_empty() { what } else { format!("{what}: {}", last_words.join(" ")) }
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_FAULT_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_FAULT_MESSAGE_BYTES));
    }
    message
}
