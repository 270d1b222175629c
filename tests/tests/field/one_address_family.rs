//! A request asks for what the policy allows among the addresses that were seen.
