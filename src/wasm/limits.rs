//! What an instance may take of this node besides time.

use wasmtime::ResourceLimiter;

/// Most elements of all tables of an instance together: 8 MiB. What a compiler makes needs some thousand.
const MAX_TABLE_ELEMENTS: u64 = 1 << 20;

/// Most linear memories of an instance. Each takes 4 GiB of address space.
pub const MAX_MEMORIES: usize = 8;

/// Most tables of an instance.
pub const MAX_TABLES: usize = 64;

/// Most core instances in an instance. Python's need some twenty.
const MAX_CORE_INSTANCES: usize = 256;

/// Most handles to resources that an instance may hold.
pub(super) const MAX_HANDLES: usize = 1000;

/// Who stopped a growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// The budget: the guest asked for too much.
    Budget,
    /// The operating system: this node has too little.
    Host,
}

/// Counts what an instance has and denies what exceeds its budget.
///
/// A denied growth ends the call. Were it told to the guest, as wasm provides for, the guest could go on in a way that
/// depends on its allocator's history, and differs between replicas.
#[derive(Debug)]
pub(super) struct Limits {
    memory_budget_bytes: u64,
    memory_bytes: u64,
    table_elements: u64,
    denial: Option<Denial>,
}

impl Limits {
    pub(super) fn new(memory_budget_bytes: u64) -> Self {
        Self { memory_budget_bytes, memory_bytes: 0, table_elements: 0, denial: None }
    }

    /// Sets how much linear memory there may be from now on, in bytes. What is there stays.
    pub(super) fn set_memory_budget(&mut self, bytes: u64) {
        self.memory_budget_bytes = bytes;
    }

    /// Linear memory in use, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Who ended the call, if it ended for want of space.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.denial
    }

    fn deny(&mut self, denial: Denial, message: String) -> wasmtime::Result<bool> {
        self.denial = Some(denial);
        Err(wasmtime::Error::msg(message))
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current) as u64);
        let budget = self.memory_budget_bytes;
        if total > budget || maximum.is_some_and(|maximum| desired > maximum) {
            return self.deny(Denial::Budget, format!("it asked for {total} bytes of memory and may have {budget}"));
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.deny(Denial::Host, format!("cannot get memory within the budget: {error:#}")).map(drop)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current) as u64);
        if total > MAX_TABLE_ELEMENTS || maximum.is_some_and(|maximum| desired > maximum) {
            let message = format!("it asked for {total} table elements and may have {MAX_TABLE_ELEMENTS}");
            return self.deny(Denial::Budget, message);
        }
        self.table_elements = total;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.deny(Denial::Host, format!("cannot grow a table within the budget: {error:#}")).map(drop)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}
