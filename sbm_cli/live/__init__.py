"""Sound that is enhanced while it is made: from a microphone or a pipe to a loudspeaker, a file or a pipe."""
