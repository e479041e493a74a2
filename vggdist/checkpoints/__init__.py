"""What must survive?"""
