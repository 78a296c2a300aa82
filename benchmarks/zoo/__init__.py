"""Networks that nobody of this package wrote: do they export, are they right, how fast are they?"""
