//! A scripted guardian, which records its orders.

use std::sync::{Arc, Mutex};

use ostler_core::ids::Incarnation;
use ostler_core::spec::StopSpec;
use ostler_os::guardian::OrderError;

use super::orders::Orders;

#[derive(Debug, Clone, Default)]
pub(super) struct Scripted {
    orders: Arc<Mutex<Vec<String>>>,
    /// Whether it is gone and takes no orders.
    pub(super) gone: bool,
}

impl Scripted {
    /// The orders since the last call.
    pub(super) fn orders(&self) -> Vec<String> {
        std::mem::take(&mut self.orders.lock().unwrap())
    }

    fn note(&self, order: String) -> Result<(), OrderError> {
        if self.gone {
            return Err(OrderError::Gone);
        }
        self.orders.lock().unwrap().push(order);
        Ok(())
    }
}

impl Orders for Scripted {
    fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec) -> Result<(), OrderError> {
        self.note(format!("end {slot}#{incarnation} {}", stop.signal))
    }

    fn close(&self, slots: &[u32]) -> Result<(), OrderError> {
        self.note(format!("close {slots:?}"))
    }

    fn census(&self) -> Result<(), OrderError> {
        self.note("census".to_owned())
    }

    fn abandon(&self) {
        // Succeeds without effect if it is gone.
        let _ = self.note("abandon".to_owned());
    }
}
