"""DNS for the sandbox: what it asks of the policy's resolver comes to the gateway first."""
