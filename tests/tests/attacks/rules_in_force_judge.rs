//! A request is judged under the rules in force when it takes effect.
