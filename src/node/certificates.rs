//! Certificates that are replaced while the node serves: its files are looked at again and again, and used once they are others
//! that fit together.

use std::time::Duration;

use crate::transport::{Credentials, Endpoint, TransportError};

/// How often the files are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Renews the endpoints' credentials whenever their files change, until the node ends.
pub(super) async fn watch(endpoints: [Endpoint; 2], mut credentials: Credentials) {
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    let mut last_failure = None;
    loop {
        checks.tick().await;
        let looking = credentials.clone();
        let Ok(reloaded) = tokio::task::spawn_blocking(move || looking.reload()).await else { return };
        let renewed = match reloaded {
            Ok(None) => Ok(()),
            Ok(Some(fresh)) => renew(&endpoints, &fresh).map_err(|error| error.to_string()).map(|closed| {
                tracing::info!(closed, "the certificates were replaced: these are in use now");
                credentials = fresh;
            }),
            Err(error) => Err(error.to_string()),
        };
        // Once for each reason: files that are replaced one by one do not fit together for a moment.
        if let Err(reason) = &renewed
            && last_failure.as_ref() != Some(reason)
        {
            tracing::warn!(reason, "the certificates on disk cannot be used; the former ones still are");
        }
        last_failure = renewed.err();
    }
}

/// Returns how many connections were closed.
fn renew(endpoints: &[Endpoint], credentials: &Credentials) -> Result<usize, TransportError> {
    endpoints.iter().map(|endpoint| endpoint.renew(credentials.clone())).sum()
}
