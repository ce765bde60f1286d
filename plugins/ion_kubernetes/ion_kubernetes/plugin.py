"""What ion-kubernetes brings is registered here. So far that is nothing: the executor comes with its contract."""
