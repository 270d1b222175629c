//! Placeholder until the api branch lands: take theirs.
use crate::config;
use std::path::Path;
/// Bound listeners.
pub struct Bound;
/// Binds.
///
/// # Errors
/// None yet.
pub fn bind(_: &config::Api, _: &Path) -> std::io::Result<Bound> {
    Ok(Bound)
}
impl Bound {
    /// Serves.
    pub async fn serve(self, _: crate::engine::Engine, _: tokio::sync::watch::Receiver<()>) {}
}
