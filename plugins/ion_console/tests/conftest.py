"""What tests of this plugin share lies beside them."""
